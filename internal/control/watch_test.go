package control

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net/url"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nixfleet/nixfleet-agent/internal/outbox"
	"github.com/nixfleet/nixfleet-agent/internal/wire"
)

// asked runs a watch for a time, in which the control plane answers as poll does, and gives when it was asked.
func asked(t *testing.T, during time.Duration, jitter func(int64) int64, poll func(ctx context.Context, n int) (bool, error)) (at []time.Duration, log string) {
	t.Helper()
	var b bytes.Buffer
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		reach := newReachability(nil)
		ctx, cancel := context.WithTimeout(t.Context(), during)
		defer cancel()
		w := watch{reach: reach.get, log: slog.New(slog.NewTextHandler(&b, nil)), jitter: jitter,
			poll: func(ctx context.Context, _ uint64) (wire.Dispatch, bool, error) {
				at = append(at, time.Since(start))
				found, err := poll(ctx, len(at))
				return wire.Dispatch{Generation: uint64(len(at))}, found, err
			}}
		used := uint64(0)
		w.run(ctx, func() uint64 { return used }, func(d wire.Dispatch) { used = d.Generation })
		if took := time.Since(start); took != during {
			t.Errorf("it ran for %s", took)
		}
	})
	return at, b.String()
}

func most(n int64) int64 { return n }
func least(int64) int64  { return 0 }

// A control plane that answers at once, with nothing or with always the same, is asked once a second and not more.
func TestWatchDoesNotSpin(t *testing.T) {
	for _, found := range []bool{false, true} {
		at, _ := asked(t, time.Minute+time.Millisecond, most, func(context.Context, int) (bool, error) { return found, nil })
		if len(at) != 61 || at[1] != time.Second {
			t.Errorf("found %v: asked %d times, at %v", found, len(at), at[:2])
		}
	}
	at, _ := asked(t, time.Minute+time.Millisecond, least, func(context.Context, int) (bool, error) { return false, errors.New("no") })
	if len(at) != 61 {
		t.Errorf("failing, with the luck of no pause: asked %d times", len(at))
	}
}

// A request that was held is followed by the next at once.
func TestWatchAsksAgainAtOnce(t *testing.T) {
	at, _ := asked(t, 9*time.Minute+time.Second, most, func(ctx context.Context, _ int) (bool, error) {
		select {
		case <-time.After(time.Minute):
			return false, nil
		case <-ctx.Done():
			return false, ctx.Err()
		}
	})
	if len(at) != 10 || at[9] != 9*time.Minute {
		t.Errorf("asked %d times, at %v", len(at), at)
	}
}

func TestWatchBacksOff(t *testing.T) {
	at, log := asked(t, time.Hour, most, func(_ context.Context, n int) (bool, error) {
		if n == 14 {
			return false, nil
		}
		return false, &Error{What: "down", Hint: "look"}
	})
	for i, want := range []float64{1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300, 300, 300, 1, 1, 2} {
		if pause := at[i+1] - at[i]; pause.Seconds() != want {
			t.Errorf("pause %d is %s, want %v s", i, pause, want)
		}
	}
	if n := strings.Count(log, "no dispatches"); n != 2 || !strings.Contains(log, "hint=look") || strings.Count(log, "answers again") != 1 {
		t.Errorf("log:\n%s", log)
	}
}

func TestWatchWaitsAsLongAsItIsTold(t *testing.T) {
	at, _ := asked(t, 5*time.Minute, most, func(context.Context, int) (bool, error) {
		return false, &Error{Err: &outbox.Rejected{RetryAfter: 2 * time.Minute}}
	})
	if len(at) != 3 || at[1] != 2*time.Minute {
		t.Errorf("asked at %v", at)
	}
}

// Another request that gets through says that the control plane is back: the pause is over. Not where it was not away.
func TestWatchIsWokenByReach(t *testing.T) {
	for _, c := range []struct {
		name string
		err  *Error
		want time.Duration
	}{
		{"it was away", &Error{What: "down", unreached: true}, time.Minute},
		{"it answered badly", &Error{What: "garbage"}, 3 * time.Minute},
	} {
		t.Run(c.name, func(t *testing.T) {
			var at []time.Duration
			synctest.Test(t, func(t *testing.T) {
				reach := newReachability(nil)
				start := time.Now()
				ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute+30*time.Second)
				defer cancel()
				go func() {
					<-time.After(30 * time.Second)
					reach.note(time.Now(), c.err) // somebody else fails, which wakes nobody
					<-time.After(30 * time.Second)
					reach.note(time.Now(), nil)
				}()
				w := watch{reach: reach.get, log: slog.New(slog.DiscardHandler), jitter: func(int64) int64 { return int64(3 * time.Minute) },
					poll: func(context.Context, uint64) (wire.Dispatch, bool, error) {
						at = append(at, time.Since(start))
						reach.note(time.Now(), c.err)
						return wire.Dispatch{}, false, c.err
					}}
				w.run(ctx, func() uint64 { return 0 }, nil)
			})
			if len(at) != 2 || at[1] != c.want {
				t.Errorf("asked at %v, want the second at %s", at, c.want)
			}
		})
	}
}

// tooDeep against the decoder's own idea of depth.
func FuzzTooDeep(f *testing.F) {
	for _, seed := range []string{`{}`, `[[["a]]]"]]]`, `"\"[[["`, `{"a\\":[1]}`, strings.Repeat("[", 32) + strings.Repeat("]", 32), strings.Repeat("[", 33) + strings.Repeat("]", 33), `"\`} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		got := tooDeep(data)
		if !json.Valid(data) {
			return
		}
		deepest, depth := 0, 0
		for d := json.NewDecoder(bytes.NewReader(data)); ; {
			token, err := d.Token()
			if err != nil {
				break
			}
			if delim, ok := token.(json.Delim); ok {
				if delim == '{' || delim == '[' {
					depth++
				} else {
					depth--
				}
				deepest = max(deepest, depth)
			}
		}
		if want := deepest > wire.MaxNesting; got != want {
			t.Errorf("%q nests %d deep: %v", data, deepest, got)
		}
	})
}

// Whatever a receiver answers, a receipt is either an acknowledgement that it spelled out, the whole batch, or nothing.
func FuzzReceipt(f *testing.F) {
	for _, seed := range []string{``, `{}`, `[]`, `null`, `{"acked":3}`, `{"acked":null}`, `{"acked":-1}`, `{"ACKED":1}`, `{"acked":1,"acked":2}`, `{"acked":1,"results":[{"pos":1,"result":"refused"}]}`, `{"acked":1,"results":{}}`} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		got, err := receipt(&question{op: "post to", to: &url.URL{Host: "cp.example"}}, data)
		if err != nil && (got.Whole || got.Acked != 0 || got.Refused != nil) {
			t.Errorf("%q: %+v with %v", data, got, err)
		}
		if got.Whole && (got.Acked != 0 || got.Refused != nil) {
			t.Errorf("%q: both %+v", data, got)
		}
	})
}
