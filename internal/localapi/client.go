package localapi

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"syscall"
)

// maxAnswer bounds what a client reads of one answer.
const maxAnswer = 64 << 20

// ErrNoAgent: nobody answers on the socket.
var ErrNoAgent = errors.New("no agent answers")

// Client asks an agent over its socket.
type Client struct {
	path string
	http *http.Client
}

// NewClient makes a client of the agent behind a socket. It connects at each request.
func NewClient(path string) *Client {
	dialer := &net.Dialer{}
	return &Client{path: path, http: &http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return dialer.DialContext(ctx, "unix", path)
		},
	}}}
}

// Status asks for the status.
func (c *Client) Status(ctx context.Context) (Status, error) {
	var st Status
	err := c.get(ctx, "/v1/status", &st)
	return st, err
}

// Watch calls use with the status now and at every change, until ctx ends, the agent stops or use returns an error. A stream
// that the agent ended is ErrNoAgent.
func (c *Client) Watch(ctx context.Context, use func(Status) error) error {
	return stream(ctx, c, "/v1/status?watch=1", use)
}

// Events asks for the events after a position.
func (c *Client) Events(ctx context.Context, after uint64, limit int) ([]Event, error) {
	var events []Event
	err := c.get(ctx, fmt.Sprintf("/v1/events?after=%d&limit=%d", after, limit), &events)
	return events, err
}

// Follow calls use with every event after a position, for as long as Watch does.
func (c *Client) Follow(ctx context.Context, after uint64, use func(Event) error) error {
	return stream(ctx, c, "/v1/events?follow=1&after="+strconv.FormatUint(after, 10), use)
}

// History asks for changes of state, newest first.
func (c *Client) History(ctx context.Context, rollout string, limit int) ([]HistoryRow, error) {
	var rows []HistoryRow
	query := url.Values{"limit": {strconv.Itoa(limit)}}
	if rollout != "" {
		query.Set("rollout", rollout)
	}
	err := c.get(ctx, "/v1/history?"+query.Encode(), &rows)
	return rows, err
}

// Activate asks for a closure to be brought to the host. It returns when the agent has stored the request.
func (c *Client) Activate(ctx context.Context, req ActivateRequest) (ActivateReply, error) {
	return request[ActivateReply](ctx, c, "/v1/activate", req)
}

// request asks for a change. It returns when the agent has stored it.
func request[Reply any](ctx context.Context, c *Client, path string, req any) (Reply, error) {
	var reply Reply
	body, err := json.Marshal(req)
	if err != nil {
		return reply, fmt.Errorf("encode request: %w", err)
	}
	err = c.do(ctx, http.MethodPost, path, bytes.NewReader(body), &reply)
	return reply, err
}

func (c *Client) get(ctx context.Context, path string, into any) error {
	return c.do(ctx, http.MethodGet, path, nil, into)
}

func (c *Client) do(ctx context.Context, method, path string, body io.Reader, into any) error {
	answer, err := c.ask(ctx, method, path, body)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	data, err := io.ReadAll(io.LimitReader(answer.Body, maxAnswer))
	switch {
	case err != nil && ctx.Err() != nil:
		return ctx.Err()
	case hasGone(err):
		return c.noMore()
	case err != nil:
		return fmt.Errorf("read answer of the agent: %w", err)
	}
	if err := json.Unmarshal(data, into); err != nil {
		return fmt.Errorf("read answer of the agent: %w", err)
	}
	return nil
}

// ask sends a request and turns an answer that is no success into its error.
func (c *Client) ask(ctx context.Context, method, path string, body io.Reader) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, method, "http://agent"+path, body)
	if err != nil {
		return nil, fmt.Errorf("ask the agent: %w", err)
	}
	answer, err := c.http.Do(req)
	switch {
	case errors.Is(err, fs.ErrPermission):
		return nil, &Error{Code: CodeNotAllowed, Message: "connect to " + c.path + ": permission denied", Hint: "run it with sudo, or as a member of socketGroup"}
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ECONNREFUSED), errors.Is(err, syscall.ENOTDIR):
		return nil, fmt.Errorf("%w on %s", ErrNoAgent, c.path)
	case err != nil && ctx.Err() != nil:
		return nil, ctx.Err()
	case hasGone(err):
		return nil, c.noMore()
	case err != nil:
		return nil, fmt.Errorf("ask the agent: %w", err)
	}
	if answer.StatusCode == http.StatusOK {
		return answer, nil
	}
	defer answer.Body.Close()
	refused := &Error{}
	data, err := io.ReadAll(io.LimitReader(answer.Body, maxBody))
	if err != nil || json.Unmarshal(data, refused) != nil || refused.Message == "" {
		return nil, fmt.Errorf("ask the agent: it answered %s", answer.Status)
	}
	return nil, refused
}

// hasGone says whether a connection ended before its answer did.
func hasGone(err error) bool {
	return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE)
}

func (c *Client) noMore() error { return fmt.Errorf("%w any more on %s", ErrNoAgent, c.path) }

func stream[T any](ctx context.Context, c *Client, path string, use func(T) error) error {
	answer, err := c.ask(ctx, http.MethodGet, path, nil)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	decoder := json.NewDecoder(answer.Body)
	for {
		var v T
		if err := decoder.Decode(&v); err != nil {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			return c.noMore()
		}
		if err := use(v); err != nil {
			return err
		}
	}
}
