package operator

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/nixfleet/nixfleet-agent/internal/wire"
)

const (
	// maxReply bounds an answer that is read whole, in bytes: ten thousand summaries.
	maxReply = 64 << 20
	// maxLine bounds one value of an answer that is read line by line, in bytes. An event is smaller than wire.MaxBatch.
	maxLine = 4 << 20
)

// ErrUnreachable says that no control plane answered.
var ErrUnreachable = errors.New("no control plane answers")

// Client asks a control plane. The zero Client is not usable.
type Client struct {
	base string
	http *http.Client
}

// NewClient makes a client of the control plane at a URL, with an operator's certificate in the TLS configuration.
func NewClient(base string, config *tls.Config) (*Client, error) {
	u, err := url.Parse(base)
	if err != nil || u.Scheme != "https" || u.Host == "" {
		return nil, fmt.Errorf("%q is not the URL of a control plane: it is https://HOST:PORT", base)
	}
	return &Client{base: strings.TrimRight(base, "/"), http: &http.Client{
		Transport:     &http.Transport{TLSClientConfig: config, TLSHandshakeTimeout: 10 * time.Second, ResponseHeaderTimeout: 5 * time.Minute},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}, nil
}

// Close ends idle connections.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// Dispatch asks hosts for a target.
func (c *Client) Dispatch(ctx context.Context, req Request) (Reply, error) {
	var reply Reply
	return reply, c.whole(ctx, http.MethodPost, DispatchPath, req, &reply)
}

// Hosts lists the fleet.
func (c *Client) Hosts(ctx context.Context) (Hosts, error) {
	var hosts Hosts
	return hosts, c.whole(ctx, http.MethodGet, HostsPath, nil, &hosts)
}

// Show is all that is known of a host.
func (c *Client) Show(ctx context.Context, host string) (Detail, error) {
	var detail Detail
	return detail, c.whole(ctx, http.MethodGet, HostsPath+"/"+url.PathEscape(host), nil, &detail)
}

// Accused lists what is dispatched only by force.
func (c *Client) Accused(ctx context.Context) (Accused, error) {
	var accused Accused
	return accused, c.whole(ctx, http.MethodGet, AccusedPath, nil, &accused)
}

// Clear takes an accusation away.
func (c *Client) Clear(ctx context.Context, what Clear) error {
	var done Clear
	return c.whole(ctx, http.MethodPost, ClearPath, what, &done)
}

// Follow hands every change of a rollout's progress to visit, beginning with how it stands, until ctx ends or visit returns an error.
func (c *Client) Follow(ctx context.Context, f Follow, visit func(Progress) error) error {
	return endless(lines(ctx, c, http.MethodPost, FollowPath, f, visit))
}

// Events hands the last lines of the log to visit and, with follow, those that come until ctx ends or visit returns an error.
func (c *Client) Events(ctx context.Context, host string, last int, follow bool, visit func(Line) error) error {
	query := url.Values{"last": {strconv.Itoa(last)}}
	if host != "" {
		query.Set("host", host)
	}
	if follow {
		query.Set("follow", "1")
	}
	err := lines(ctx, c, http.MethodGet, EventsPath+"?"+query.Encode(), nil, visit)
	if follow {
		return endless(err)
	}
	return err
}

// endless is the error of an answer that has no end of its own.
func endless(err error) error {
	if err == nil {
		return fmt.Errorf("%w: it ended the answer", ErrUnreachable)
	}
	return err
}

func (c *Client) whole(ctx context.Context, method, path string, body, into any) error {
	resp, err := c.do(ctx, method, path, body)
	if err != nil {
		return err
	}
	data, err := io.ReadAll(io.LimitReader(resp.Body, maxReply+1))
	switch err = errors.Join(err, resp.Body.Close()); {
	case err != nil:
		return fmt.Errorf("%w: %w", ErrUnreachable, err)
	case len(data) > maxReply:
		return fmt.Errorf("read answer of the control plane: more than %d bytes", maxReply)
	}
	if err := json.Unmarshal(data, into); err != nil {
		return fmt.Errorf("read answer of the control plane: %w", err)
	}
	return nil
}

// lines reads one value per line. Empty lines only show that the other side lives.
func lines[T any](ctx context.Context, c *Client, method, path string, body any, visit func(T) error) (err error) {
	resp, err := c.do(ctx, method, path, body)
	if err != nil {
		return err
	}
	defer func() {
		if closing := resp.Body.Close(); err == nil && ctx.Err() == nil {
			err = closing
		}
	}()
	limited := &io.LimitedReader{R: resp.Body}
	decoder := json.NewDecoder(limited)
	for {
		limited.N = maxLine
		var v T
		switch err := decoder.Decode(&v); {
		case err != nil && limited.N == 0 && ctx.Err() == nil:
			return fmt.Errorf("read answer of the control plane: a line of more than %d bytes", maxLine)
		case errors.Is(err, io.EOF) || ctx.Err() != nil:
			return ctx.Err()
		case err != nil:
			return fmt.Errorf("%w: %w", ErrUnreachable, err)
		}
		if err := visit(v); err != nil {
			return err
		}
	}
}

// do sends a request. An answer that is no success is an error, by what the control plane says of it.
func (c *Client) do(ctx context.Context, method, path string, body any) (*http.Response, error) {
	var reader io.Reader
	if body != nil {
		data, err := json.Marshal(body)
		if err != nil {
			return nil, err
		}
		reader = bytes.NewReader(data)
	}
	req, err := http.NewRequestWithContext(ctx, method, c.base+path, reader)
	if err != nil {
		return nil, err
	}
	if body != nil {
		req.Header.Set("Content-Type", wire.JSON)
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrUnreachable, err)
	}
	if resp.StatusCode == http.StatusOK {
		return resp, nil
	}
	data, err := io.ReadAll(io.LimitReader(resp.Body, wire.MaxProblem))
	if err = errors.Join(err, resp.Body.Close()); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrUnreachable, err)
	}
	var problem wire.Problem
	if err := json.Unmarshal(data, &problem); err != nil || problem.Message == "" {
		return nil, fmt.Errorf("the control plane answers %s", resp.Status)
	}
	return nil, &problem
}
