package daemon

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/gopacket/gopacket/pcapgo"

	"aarptun/internal/capture"
	"aarptun/internal/config"
)

// scrape asks as Prometheus does.
func scrape(t *testing.T, network, address string) string {
	t.Helper()
	client := http.Client{Timeout: patience, Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, network, address)
	}}}
	response, err := client.Get("http://aarptun/metrics")
	if err != nil {
		t.Fatal(err)
	}
	text, err := io.ReadAll(response.Body)
	if err := errors.Join(err, response.Body.Close()); err != nil || response.StatusCode != http.StatusOK {
		t.Fatalf("%s, %v", response.Status, err)
	}
	return string(text)
}

// What is carried is seen in the metrics and in the capture.
func TestADaemonThatIsWatched(t *testing.T) {
	cfg := onHost(t)
	cfg.MetricsListen, cfg.Pcap = filepath.Join(cfg.StateDir, "metrics.sock"), filepath.Join(t.TempDir(), "x.pcapng")
	r := start(t, cfg)
	tcp := dial(t, "tcp", testAA6)
	exchange(t, tcp, "carried by TCP")
	udp := dial(t, "udp", testAA)
	exchange(t, udp, "carried by UDP")
	r.sees(t, udp, 2, testMember, "static", uint64(len("carried by UDP")))
	text := scrape(t, "unix", cfg.MetricsListen)
	for _, want := range []string{
		`aarptun_build_info{goversion="go`, `aarptun_flows{proto="tcp"} 1`, `aarptun_flows{proto="udp"} 1`, `aarptun_flows{proto="echo"} 0`,
		`aarptun_flows_opened_total{proto="tcp"} 1`, `aarptun_flow_bytes_total{direction="out"} 28`, `aarptun_dial_duration_seconds_count 1`,
		`aarptun_resolver_rtt_seconds_count{method="icmp"} 1`, `aarptun_resolver_rtt_seconds_count{method="stun"} 0`,
		`aarptun_flows_limited_total{limit="flows"} 0`, "aarptun_config_reload_successful 1", "aarptun_config_loaded_timestamp_seconds 1", "process_open_fds ", "go_goroutines ",
	} {
		if !strings.Contains(text, "\n"+want) {
			t.Errorf("no %q in\n%s", want, text)
		}
	}
	for _, address := range []string{testAA, testAA6, testMember, testMember6, testUplink, testUplink6} {
		if strings.Contains(text, address) {
			t.Errorf("%s is in the metrics", address)
		}
	}
	r.stop(t)
	if _, err := os.Lstat(cfg.MetricsListen); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the socket is still there: %v", err)
	}
	file, err := os.Open(cfg.Pcap)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = file.Close() }() // only read from
	reader, err := pcapgo.NewNgReader(file, pcapgo.NgReaderOptions{})
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]int{}
	for {
		data, _, options, err := reader.ReadPacketDataWithOptions()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		for _, text := range []string{"carried by TCP", "carried by UDP"} {
			if strings.Contains(string(data), text) {
				seen[text] |= int(options.Flags.Direction)
			}
		}
	}
	if both := int(pcapgo.NgEpbFlagDirectionMask); seen["carried by TCP"] != both || seen["carried by UDP"] != both {
		t.Errorf("seen, by directions: %v", seen)
	}
}

func TestMetricsByAddress(t *testing.T) {
	cfg := onHost(t)
	cfg.MetricsListen = "127.0.0.1:9470"
	r := start(t, cfg)
	if text := scrape(t, "tcp", cfg.MetricsListen); !strings.Contains(text, "\naarptun_pins 0\n") {
		t.Errorf("%s", text)
	}
	r.stop(t)
	if conn, err := net.DialTimeout("tcp", cfg.MetricsListen, time.Second); err == nil {
		_ = conn.Close()
		t.Error("after the end somebody listens")
	}
}

// The two rooms do not know each other.
func TestTheSmallestCapture(t *testing.T) {
	if config.MinPcapSize != capture.MinSize {
		t.Errorf("the configuration wants %d bytes, the capture %d", config.MinPcapSize, capture.MinSize)
	}
}
