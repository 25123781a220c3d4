package metrics

import (
	"slices"

	"github.com/prometheus/client_golang/prometheus"

	"aarptun/nat"
)

// families are all metrics of ours, in the order of docs/metrics.md.
func families() []family {
	return slices.Concat(flowFamilies(), resolverFamilies(), proberFamilies(), deviceFamilies())
}

func flowFamilies() []family {
	return []family{
		{name: "flows", help: "Flows now, by transport.", kind: prometheus.GaugeValue, label: "proto", series: func(f Figures) []sample {
			return []sample{{"tcp", float64(f.NAT.TCP)}, {"udp", float64(f.NAT.UDP)}, {"echo", float64(f.NAT.Echo)}}
		}},
		gauged("flows_limit", "How many flows there may be.", func(f Figures) int { return f.NAT.Most }),
		gauged("flows_opening", "Flows whose client has not been answered yet.", func(f Figures) int { return f.NAT.Opening }),
		gauged("clients_at_limit", "Client addresses that have as many flows as one may.", func(f Figures) int { return f.NAT.ClientsAtLimit }),
		by("proto", "flows_opened_total", "Flows that got their member. Echo has no such moment.", func(f Figures) []sample {
			return counters(f.NAT.TCPOpened, "tcp", f.NAT.UDPOpened, "udp")
		}),
		by("limit", "flows_limited_total", "Flows, and echo requests, refused at a limit of ours.", func(f Figures) []sample {
			return named(nat.Limited(), f.NAT.Limited)
		}),
		by("told", "flows_refused_total", "Flows that could not be had, by what the client was told.", func(f Figures) []sample {
			return named(reasons(), f.NAT.Told)
		}),
		counted("flows_reset_total", "TCP flows that ended with RST.", func(f Figures) uint64 { return f.NAT.Reset }),
		counted("flows_abandoned_total", "TCP flows whose client went away before it was answered.", func(f Figures) uint64 { return f.NAT.GaveUp }),
		by("direction", "flow_bytes_total", "Payload: out is from clients to members, in the other way.", func(f Figures) []sample {
			return counters(f.NAT.BytesOut, "out", f.NAT.BytesIn, "in")
		}),
		counted("dials_retried_total", "TCP flows that their member did not take and that were dialled once more.", func(f Figures) uint64 { return f.NAT.Retried }),
		{name: "dial_duration_seconds", help: "How long members took to accept a TCP connection.", times: func(f Figures) map[string]histogram {
			return map[string]histogram{"": {f.NAT.Dials.Bounds, f.NAT.Dials.Counts, f.NAT.Dials.Sum}}
		}},
		by("result", "echo_requests_total", "Echo requests carried, by whether a reply was handed back.", func(f Figures) []sample {
			return counters(f.NAT.EchoServed, "answered", f.NAT.EchoLost, "lost")
		}),
		counted("datagrams_dropped_total", "UDP datagrams that a socket or the client's side did not take.", func(f Figures) uint64 { return f.NAT.UDPDropped }),
	}
}

func resolverFamilies() []family {
	return []family{
		gauged("pins", "Anycast addresses, or clients of them, that are resolved now.", func(f Figures) int { return f.Resolver.Pins }),
		by("result", "resolver_lookups_total", "Look-ups for new flows, by whether the cache had the answer.", func(f Figures) []sample {
			return counters(f.Resolver.Hits, "hit", f.Resolver.Misses, "miss")
		}),
		counted("resolver_stale_total", "Flows that got an expired pin, since nobody answered.", func(f Figures) uint64 { return f.Resolver.Stale }),
		counted("resolver_static_total", "Pins taken from the configuration.", func(f Figures) uint64 { return f.Resolver.Static }),
		counted("resolver_probes_total", "Anycast addresses asked; retransmissions are not counted.", func(f Figures) uint64 { return f.Resolver.Probes }),
		counted("resolver_renewals_total", "Of those, ahead of a pin's end.", func(f Figures) uint64 { return f.Resolver.Renewals }),
		counted("resolver_discoveries_total", "Member sets looked for along several paths.", func(f Figures) uint64 { return f.Resolver.Discoveries }),
		counted("resolver_failures_total", "Anycast addresses for which no answer was believed.", func(f Figures) uint64 { return f.Resolver.Failures }),
		counted("resolver_self_answers_total", "Believed answers from the anycast address itself: its flows are not pinned.", func(f Figures) uint64 { return f.Resolver.SelfAnswers }),
		counted("resolver_draining_total", "Answers of members that take no new flows.", func(f Figures) uint64 { return f.Resolver.Draining }),
		counted("resolver_suspected_total", "Members that did not take a flow.", func(f Figures) uint64 { return f.Resolver.Suspected }),
		counted("resolver_cache_full_total", "Answers there was no room to keep.", func(f Figures) uint64 { return f.Resolver.CacheFull }),
		by("reason", "resolver_answers_refused_total", "Answers to probes that were not believed.", func(f Figures) []sample {
			return refusals(resolverReasons, f.Resolver.Refused)
		}),
		{name: "resolver_rtt_seconds", help: "Round-trip times of the probes whose answers were believed.", label: "method", times: func(f Figures) map[string]histogram {
			all := map[string]histogram{}
			for method, h := range f.Resolver.RTT {
				all[method] = histogram{h.Bounds, h.Counts, h.Sum}
			}
			return all
		}},
	}
}

func proberFamilies() []family {
	return []family{
		by("kind", "ping_requests_total", "Echo requests sent: transmissions of probes, and those of clients sent on.", func(f Figures) []sample {
			return counters(f.Ping.Probes, "probe", f.Ping.Relayed, "relayed")
		}),
		counted("ping_replies_total", "Echo replies that somebody waited for.", func(f Figures) uint64 { return f.Ping.Replies }),
		counted("ping_icmp_errors_total", "ICMP errors about a request that waits, whoever sent them.", func(f Figures) uint64 { return f.Ping.ICMPErrors }),
		by("reason", "ping_dropped_total", "Replies and ICMP errors that nobody waited for, forged ones among them, or that could not be read; requests there was no room for; failed sends and receives.", func(f Figures) []sample {
			return counters(f.Ping.Unmatched, "unmatched", f.Ping.Malformed, "malformed", f.Ping.Busy, "busy", f.Ping.Errors, "error")
		}),
		by("kind", "stun_questions_total", "What responders were asked: addresses for a member, and members whether they are one.", func(f Figures) []sample {
			return counters(f.STUN.Probes, "probe", f.STUN.Confirms, "confirm")
		}),
		counted("stun_transmissions_total", "Questions sent, repeated ones too.", func(f Figures) uint64 { return f.STUN.Transmissions }),
		counted("stun_answers_total", "Answers of responders that were believed.", func(f Figures) uint64 { return f.STUN.Answers }),
		by("reason", "stun_answers_refused_total", "Answers of responders that were not believed.", func(f Figures) []sample {
			return refusals(stunReasons, f.STUN.Refused)
		}),
		by("reason", "stun_dropped_total", "Datagrams that answer no question, forged ones among them; ICMP errors about ours; questions or answers there was no room for; failed sends and receives.", func(f Figures) []sample {
			return counters(f.STUN.Unmatched, "unmatched", f.STUN.Unreachable, "unreachable", f.STUN.Busy, "busy", f.STUN.Errors, "error")
		}),
	}
}

func deviceFamilies() []family {
	return []family{
		by("direction", "device_packets_total", "Packets over the TUN device; one may stand for 64 KiB of segments.", func(f Figures) []sample {
			return counters(f.Stack.PacketsIn, "from_clients", f.Stack.PacketsOut, "to_clients")
		}),
		by("direction", "device_bytes_total", "Bytes of those packets, with IP headers.", func(f Figures) []sample {
			return counters(f.Stack.BytesIn, "from_clients", f.Stack.BytesOut, "to_clients")
		}),
		by("operation", "device_errors_total", "Packets that the device failed to hand over or to take.", func(f Figures) []sample {
			return counters(f.Stack.ReadErrors, "read", f.Stack.WriteErrors, "write")
		}),
		gauged("handshakes_pending", "SYNs that wait for their answer.", func(f Figures) int { return f.Stack.Handshakes }),
		gauged("echoes_pending", "Echo requests that wait for their reply.", func(f Figures) int { return f.Stack.Echoes }),
		gauged("buffered_bytes", "Bytes that wait for their readers, all flows together.", func(f Figures) int { return f.Stack.Buffered }),
		by("reason", "packets_dropped_total", "Packets of clients that were dropped.", func(f Figures) []sample {
			s := f.Stack
			return counters(s.Malformed, "malformed", s.NotAnycast, "not_anycast", s.BadSource, "bad_source", s.OtherICMP, "other_icmp",
				s.SYNsDropped, "handshakes", s.EchoesDropped, "echoes", s.Shed, "refusals", s.DatagramsDropped, "datagrams")
		}),
		by("reason", "packets_refused_total", "Packets of clients that were refused: new flows while too much waited, and other protocols.", func(f Figures) []sample {
			return counters(f.Stack.RefusedBuffers, "buffers", f.Stack.RefusedProtocol, "protocol")
		}),
		by("result", "icmp_errors_total", "ICMP errors to clients, sent or kept back for the rate.", func(f Figures) []sample {
			return counters(f.Stack.ErrorsSent, "sent", f.Stack.ErrorsLimited, "limited")
		}),
		by("result", "path_mtu_reports_total", "What routers have said about packets that are too big for the way to an IPv6 client, kept or not for want of room.", func(f Figures) []sample {
			return counters(f.Stack.MTUsLearned, "kept", f.Stack.MTUsFull, "full")
		}),
		by("result", "route_repairs_total", "How often routes, rules or the device's state were put back after another program took them away, or could not be.", func(f Figures) []sample {
			return counters(f.TUN.Repairs, "done", f.TUN.Failures, "failed")
		}),
		gauged("routes_contested", "1 while what is put back is taken away again.", func(f Figures) int { return bit(f.TUN.Contest) }),
		counted("route_notices_lost_total", "How often the kernel had more to say about routes than there was room for.", func(f Figures) uint64 { return f.TUN.Resyncs }),
		{name: "offload_flows", help: "Flows that the kernel carries now, by transport.", kind: prometheus.GaugeValue, label: "proto", series: func(f Figures) []sample {
			return counters(uint64(f.Offload.TCP), "tcp", uint64(f.Offload.UDP), "udp", uint64(f.Offload.Echo), "echo")
		}},
		gauged("offload_pins", "Pins that the kernel knows.", func(f Figures) int { return f.Offload.Pins }),
		by("result", "offload_repairs_total", "How often what the kernel knows was written anew after it was amiss, or could not be.", func(f Figures) []sample {
			return counters(f.Offload.Rebuilds, "done", f.Offload.Failures, "failed")
		}),
		gauged("config_loaded_timestamp_seconds", "When the configuration that counts was read.", func(f Figures) int { return int(f.Config.Loaded.Unix()) }),
		gauged("config_reload_successful", "0 if the last reload changed nothing, for what was wrong.", func(f Figures) int { return bit(!f.Config.ReloadFailed) }),
		counted("capture_packets_total", "Packets written to the file of --pcap.", func(f Figures) uint64 { return f.Capture.Packets }),
		counted("capture_bytes_total", "Bytes of those packets.", func(f Figures) uint64 { return f.Capture.Bytes }),
		by("reason", "capture_dropped_total", "Packets not written: the file was too far behind, had reached its size, or failed.", func(f Figures) []sample {
			return counters(f.Capture.Queue, "queue", f.Capture.Full, "size", f.Capture.Failed, "error")
		}),
	}
}

// bit is how a gauge says yes.
func bit(yes bool) int {
	if yes {
		return 1
	}
	return 0
}

// counters makes samples of a value and its label in turn.
func counters(pairs ...any) []sample {
	var all []sample
	for i := 0; i < len(pairs); i += 2 {
		all = append(all, sample{pairs[i+1].(string), float64(pairs[i].(uint64))})
	}
	return all
}

// named makes a sample for each name, counted or not.
func named(names []string, counts map[string]uint64) []sample {
	var all []sample
	for _, name := range names {
		all = append(all, sample{name, float64(counts[name])})
	}
	return all
}

// reasons are the names of what clients are told.
func reasons() []string {
	var names []string
	for r := nat.Refused; r <= nat.Relayed; r++ {
		names = append(names, r.String())
	}
	return names
}
