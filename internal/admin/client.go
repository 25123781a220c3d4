package admin

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"strconv"
	"syscall"
)

// ErrNotRunning says that no daemon listens on the socket.
var ErrNotRunning = errors.New("admin: no aarptun is running")

// maxAnswer bounds what a client reads: 100,000 flows are about 30 MB.
const maxAnswer = 256 << 20

// Client asks a running daemon. The zero value is not usable; see [NewClient].
type Client struct {
	path string
	http *http.Client
}

// NewClient returns a client of the daemon whose socket is at path. Nothing is
// dialled yet.
func NewClient(path string) *Client {
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", path)
	}
	return &Client{path: path, http: &http.Client{Timeout: requestTimeout, Transport: transport(dial)}}
}

func transport(dial func(ctx context.Context, network, address string) (net.Conn, error)) *http.Transport {
	return &http.Transport{DialContext: dial, DisableKeepAlives: true}
}

// Status returns how the daemon is.
func (c *Client) Status(ctx context.Context) (Status, error) {
	return get[Status](ctx, c, "/v1/status")
}

// Flows returns the flows as they stand now.
func (c *Client) Flows(ctx context.Context) (Flows, error) { return get[Flows](ctx, c, "/v1/flows") }

// FlowsBy returns the flows that q asks for.
func (c *Client) FlowsBy(ctx context.Context, q FlowQuery) (Flows, error) {
	path := "/v1/flows"
	if values := q.values(); len(values) > 0 {
		path += "?" + values.Encode()
	}
	return get[Flows](ctx, c, path)
}

// Members returns the members that have a flow or a pin now.
func (c *Client) Members(ctx context.Context) (Members, error) {
	return get[Members](ctx, c, "/v1/members")
}

// Pins returns the pins as they stand now.
func (c *Client) Pins(ctx context.Context) (Pins, error) { return get[Pins](ctx, c, "/v1/pins") }

// Flush has the daemon forget the pins of an AA, or all if it is the zero Addr;
// with cut it also ends the flows to it that the kernel carries.
func (c *Client) Flush(ctx context.Context, aa netip.Addr, cut bool) (Flushed, error) {
	query := url.Values{"cut": {strconv.FormatBool(cut)}}
	if aa.IsValid() {
		query.Set("anycast", aa.String())
	}
	return exchange[Flushed](ctx, c, http.MethodPost, "/v1/flush?"+query.Encode())
}

func get[T any](ctx context.Context, c *Client, path string) (answer T, err error) {
	return exchange[T](ctx, c, http.MethodGet, path)
}

func exchange[T any](ctx context.Context, c *Client, method, path string) (answer T, err error) {
	request, err := http.NewRequestWithContext(ctx, method, "http://aarptun"+path, nil)
	if err != nil {
		return answer, fmt.Errorf("admin: %w", err)
	}
	response, err := c.http.Do(request)
	if err != nil {
		return answer, c.explain(err)
	}
	defer func() { err = errors.Join(err, response.Body.Close()) }()
	if response.StatusCode != http.StatusOK {
		return answer, fmt.Errorf("admin: %s answers %s to %s: is it another version of aarptun?", c.path, response.Status, path)
	}
	switch err := json.NewDecoder(io.LimitReader(response.Body, maxAnswer)).Decode(&answer); {
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, syscall.ECONNRESET), errors.Is(err, context.DeadlineExceeded):
		return answer, c.explain(err)
	case err != nil:
		return answer, fmt.Errorf("admin: %s gives a wrong answer to %s: %w", c.path, path, err)
	}
	return answer, nil
}

// explain says what a failed request means to who asked.
func (c *Client) explain(err error) error {
	var outer *url.Error
	if errors.As(err, &outer) {
		err = outer.Err // it repeats the request, which the user has not made
	}
	switch {
	case errors.Is(err, os.ErrNotExist), errors.Is(err, syscall.ECONNREFUSED), errors.Is(err, syscall.ENOTDIR):
		return fmt.Errorf("%w at %s: start it with 'aarptun run', or name its socket with --admin-socket", ErrNotRunning, c.path)
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE):
		return fmt.Errorf("%w at %s any more: it ended while it was asked", ErrNotRunning, c.path)
	case errors.Is(err, os.ErrPermission):
		return fmt.Errorf("admin: %s belongs to another user: run this as the user who runs aarptun: %w", c.path, os.ErrPermission)
	case errors.Is(err, context.DeadlineExceeded):
		return fmt.Errorf("%w at %s that answers within %v: see whether the process that listens there is stuck", ErrNotRunning, c.path, requestTimeout)
	}
	return fmt.Errorf("admin: %s: %w", c.path, err)
}
