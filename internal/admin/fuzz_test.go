package admin

import (
	"bufio"
	"bytes"
	"encoding/json"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
)

// panics fails the test when the HTTP server has recovered from one.
type panics struct{ t *testing.T }

func (p panics) Write(line []byte) (int, error) {
	if strings.Contains(string(line), "panic") {
		p.t.Errorf("the server has panicked: %s", line)
	}
	return len(line), nil
}

// FuzzRequest writes raw bytes to the server. Whatever they are, it answers
// each request it makes out with JSON or with a refusal, and it lets go of a
// client that has gone or that says no more.
func FuzzRequest(f *testing.F) {
	for _, seed := range []string{
		"", "\r\n", "GET", "GET /v1/status HTTP/1.1\r\nHost: x\r\n\r\n", "GET /v1/flows HTTP/1.0\r\n\r\n",
		"GET /v1/pins HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
		"HEAD /v1/status HTTP/1.1\r\nHost: x\r\n\r\n", "HEAD /v1/other HTTP/1.1\r\nHost: x\r\n\r\nquest", "OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n",
		"POST /v1/status HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999\r\n\r\n",
		"POST /v1/flows HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\n",
		"GET /v1/status HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n",
		"GET /v1/status HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nfew", // and no more: the answer waits for the rest
		"GET /v1/../v1//flows HTTP/1.1\r\nHost: x\r\n\r\n", "GET http://[::1%25/v1/pins HTTP/1.1\r\nHost: [\r\n\r\n",
		"GET /v1/status HTTP/1.1\r\nHost: x\r\n\r\nGET /v1/flows HTTP/1.1\r\nHost: x\r\n\r\nGET /v1/pins HTTP/1.1\r\nHost: x\r\n\r\n",
		"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "CONNECT x:1 HTTP/1.1\r\nHost: x\r\n\r\n", "\x16\x03\x01\x02\x00\x01",
		"GET /%00%ff HTTP/1.1\r\nHost: \x00\r\n\r\n", "GET /v1/status HTTP/1.1\r\nHost: x\r\nUpgrade: h2c\r\nConnection: Upgrade\r\n\r\n",
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, request []byte) {
		synctest.Test(t, func(t *testing.T) {
			listener := newPipeListener()
			server := newServer("", newFixed(), slog.New(slog.NewTextHandler(panics{t}, &slog.HandlerOptions{Level: slog.LevelDebug})))
			ended := make(chan error, 1)
			go func() { ended <- server.http.Serve(listener) }()
			checkAnswers(t, request, talk(listener.dial(), request))
			if err := server.http.Close(); err != nil {
				t.Error(err)
			}
			<-ended // http.ErrServerClosed
			server.conns.Wait()
		})
	})
}

// talk sends the request and returns all that is answered.
func talk(client net.Conn, request []byte) []byte {
	go func() {
		_, _ = client.Write(request) // a server that refuses does not read all
	}()
	answers, _ := io.ReadAll(client) // until the server has closed: in fake time it always does
	_ = client.Close()
	return answers
}

// checkAnswers wants each answer to be a refusal or JSON. The answer to a HEAD
// tells of a body that it does not have (RFC 9110 9.3.2), so that answers can be
// told apart only by who knows what was asked.
func checkAnswers(t *testing.T, request, answers []byte) {
	t.Helper()
	asked := methods(request)
	reader := bufio.NewReader(bytes.NewReader(answers))
	for {
		if _, err := reader.Peek(1); err != nil {
			return
		}
		method := http.MethodGet
		if len(asked) > 0 {
			method = asked[0]
		}
		response, err := http.ReadResponse(reader, &http.Request{Method: method})
		if err != nil {
			t.Errorf("no HTTP answer: %v: %q", err, answers)
			return
		}
		body, err := io.ReadAll(response.Body)
		if err != nil {
			t.Errorf("half an answer: %v: %q", err, answers)
			return
		}
		if response.StatusCode == http.StatusOK && len(body) > 0 && !json.Valid(body) {
			t.Errorf("answered 200 with %q", body)
		}
		if response.Close { // the last one (RFC 9112 9.6): what is not HTTP/1 is refused with a body, also when it was a HEAD
			return
		}
		if response.StatusCode >= http.StatusOK && len(asked) > 0 { // a 1xx comes before the answer
			asked = asked[1:]
		}
	}
}

// methods returns the method of each request that can be made out, in order.
func methods(requests []byte) []string {
	var asked []string
	reader := bufio.NewReader(bytes.NewReader(requests))
	for {
		request, err := http.ReadRequest(reader)
		if err != nil {
			return asked
		}
		asked = append(asked, request.Method)
		if _, err := io.Copy(io.Discard, request.Body); err != nil {
			return asked
		}
	}
}
