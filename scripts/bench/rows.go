package main

import "net/netip"

// scale is how large a run is: the same rows with less of everything make a
// smoke test.
type scale struct {
	Seconds float64 `json:"seconds"` // of a sample
	Idle    int     `json:"idle"`    // flows
	Growth  int     `json:"growth"`  // flows
	Many    int     `json:"many"`    // flows
	First   int     `json:"first"`   // addresses
	Settle  float64 `json:"settle"`  // seconds for memory to be given back, at most
}

var (
	fullScale  = scale{Seconds: 2, Idle: 9000, Growth: 10000, Many: 100000, First: 50, Settle: 8}
	quickScale = scale{Seconds: 0.2, Idle: 200, Growth: 200, Many: 2000, First: 5, Settle: 1}
)

// group is rows that are measured one after the other with one start of the
// translator.
type group struct {
	name, title string
	note        string // for the page
	once        bool   // in the first repetition only
	notQuick    bool
	alone       bool // needs a fresh translator
	fits        func(variant) bool
	rows        []row
}

// row is one kind of sample and the figures that it gives.
type row struct {
	name, title string
	ask         func(scale, target) request
	metrics     []metric
}

// metric is a figure of a row.
type metric struct {
	key    string // of the sample's values
	title  string // in the table, after the row's own
	unit   string
	digits int
	less   bool   // is better
	bare   bool   // no ratio to direct, and no comparison
	goal   goal   // of aarptun
	kernel goal   // of aarptun-nft
	chart  string // the chart that shows it
}

// against is what a goal is measured against.
type against int

const (
	noGoal   against = iota
	ofDirect         // the ratio to direct
	absolute         // the figure
	beyond           // the figure less that of direct
)

// goal is what a variant is to reach.
type goal struct {
	kind  against
	limit float64
}

// target is where the load of a variant goes, and from where.
type target struct {
	ip6, ip4 netip.Addr
	fresh    []netip.Addr // anycast addresses that nobody has asked for
	several  []netip.Addr // anycast addresses
	sources  []netip.Addr // of the client
}

// What the kernel carries has nine tenths of direct, or takes as much longer.
var (
	nearDirect = goal{ofDirect, 0.9}
	aboutEqual = goal{ofDirect, 1.11}
)

func translates(v variant) bool { return v.process && !v.tcpOnly }

// remembers is whether a variant has a process whose memory flows could take.
func remembers(v variant) bool { return translates(v) || v.kernel }

func everyone(variant) bool { return true }

func whole(v variant) bool { return !v.tcpOnly }

// groups are all there is to measure, in the order in which it is.
var groups = []group{
	{
		name: "tcp", title: "TCP, IPv6", fits: everyone,
		note: "Gb/s are what the receiver got. CPU is user, system, interrupt and softirq time: of the whole machine, all ends included, and of the translator's process alone.",
		rows: tcpRows("tcp", true, func(t target) netip.Addr { return t.ip6 }, []stream{
			{up: true, n: 1, goal: 0.75}, {n: 1, goal: 0.70}, {up: true, n: 8, goal: 0.80}, {n: 8, goal: 0.80},
		}),
	},
	{
		name: "tcp4", title: "TCP, IPv4", fits: everyone,
		rows: tcpRows("tcp4", false, func(t target) netip.Addr { return t.ip4 }, []stream{{up: true, n: 1}, {n: 1}}),
	},
	{name: "udp", title: "UDP", fits: whole, rows: udpRows,
		note: "A flood is as many datagrams as the sender can send from one socket: it mostly shows how the cores are shared. Received is what the member's socket got."},
	{name: "latency", title: "Request and response", fits: everyone, rows: []row{{
		name: "rr", title: "request/response",
		ask: func(s scale, t target) request { return request{Kind: "rr", To: one(t.ip6), Seconds: s.Seconds} },
		metrics: []metric{
			{key: "p50", title: "p50", unit: "us", less: true, goal: goal{ofDirect, 4}, kernel: aboutEqual, chart: "latency"},
			{key: "p99", title: "p99", unit: "us", less: true, goal: goal{ofDirect, 6}, kernel: aboutEqual, chart: "latency"},
		},
	}}, note: "One byte to and fro on one open TCP connection."},
	{name: "connections", title: "Connections", fits: everyone, rows: []row{{
		name: "connect",
		ask:  func(s scale, t target) request { return request{Kind: "connect", To: one(t.ip6), Seconds: s.Seconds} },
		metrics: []metric{
			{key: "rate", title: "opened and closed", unit: "1/s", goal: goal{ofDirect, 0.5}, kernel: nearDirect, chart: "connections"},
			{key: "p50", title: "connect p50", unit: "ms", digits: 2, less: true, chart: "connections"},
			{key: "p99", title: "connect p99", unit: "ms", digits: 2, less: true, goal: goal{ofDirect, 2.5}, chart: "connections"},
		},
	}}, note: "Eight workers: connect, one byte to and fro, close."},
	{name: "first", title: "First connect to an unresolved AA", fits: func(v variant) bool { return v.resolves }, rows: []row{{
		name: "first", title: "first connect",
		ask: func(s scale, t target) request {
			return request{Kind: "first", To: t.fresh[:s.First], Seconds: s.Seconds}
		},
		metrics: []metric{
			{key: "p50", title: "p50", unit: "ms", digits: 2, less: true, bare: true},
			{key: "p99", title: "p99", unit: "ms", digits: 2, less: true, bare: true},
		},
	}}, note: "One connection after the other, each to an AA that has not been asked for since the start: the probe and its reply are part of the connect."},
	{
		name: "lan", title: "A forwarded LAN client, IPv6", fits: func(v variant) bool { return !v.inner && !v.tcpOnly },
		rows: tcpRows("lan", false, func(t target) netip.Addr { return t.ip6 }, []stream{{up: true, n: 1}, {n: 1}}),
		note: "The load runs on a host behind the client, which forwards.",
	},
	{name: "idle", title: "Idle flows", fits: remembers, alone: true, rows: []row{{
		name: "idle",
		ask: func(s scale, t target) request {
			return request{Kind: "idle", To: one(t.ip6), Sources: t.sources, Seconds: s.Seconds, Flows: s.Idle, Settle: s.Settle}
		},
		metrics: []metric{
			{key: "kb", title: "memory of each flow", unit: "kB", digits: 1, less: true, goal: goal{absolute, 12}, kernel: goal{absolute, 0}, chart: "memory"},
			{key: "before_mb", title: "memory of the translator before", unit: "MB", digits: 1, less: true, bare: true},
			{key: "during_mb", title: "with all flows open", unit: "MB", digits: 1, less: true, bare: true},
			{key: "after", title: "after all have closed, to before", unit: "x", digits: 2, less: true, goal: goal{absolute, 1.1}},
			{key: "settled", title: "until that was so", unit: "s", digits: 1, less: true, bare: true},
			{key: "again", title: "after a second time, to after the first", unit: "x", digits: 2, less: true, goal: goal{absolute, 1.1}},
		},
	}}, note: "Resident memory of the translator's process (VmRSS); the kernel's sockets are not in it, nor its entries of connection tracking. The memory after is the first that is within a tenth of that before, or what it is when the time for that is over. At the start little of the program's own code is in memory."},
	{name: "growth", title: "Cost of growth", fits: whole, rows: []row{{
		name: "growth", title: "TCP x1",
		ask: func(s scale, t target) request {
			return request{Kind: "growth", To: one(t.ip6), Sources: t.sources, Seconds: s.Seconds, Few: 10, Flows: s.Growth}
		},
		metrics: []metric{
			{key: "up_few", title: "up beside 10 flows", unit: "Gb/s", digits: 2, bare: true},
			{key: "up_many", title: "up beside many", unit: "Gb/s", digits: 2, bare: true},
			{key: "up", title: "up, many to 10", unit: "x", digits: 2, goal: goal{absolute, 0.9}},
			{key: "down_few", title: "down beside 10 flows", unit: "Gb/s", digits: 2, bare: true},
			{key: "down_many", title: "down beside many", unit: "Gb/s", digits: 2, bare: true},
			{key: "down", title: "down, many to 10", unit: "x", digits: 2, goal: goal{absolute, 0.9}},
		},
	}}, note: "One stream beside 10 idle flows, and beside many."},
	{name: "many", title: "Many flows in one daemon", fits: func(v variant) bool { return v.resolves }, once: true, notQuick: true, rows: []row{{
		name: "many",
		ask: func(s scale, t target) request {
			return request{Kind: "many", To: t.several, Sources: t.sources, Seconds: max(5, s.Seconds), Flows: s.Many}
		},
		metrics: []metric{
			{key: "flows", title: "held open", unit: "flows", goal: goal{absolute, 100000}, bare: true},
			{key: "active", title: "of them active", unit: "flows", bare: true},
			{key: "exchanges_per_s", title: "exchanges by these", unit: "1/s", bare: true},
			{key: "rss_mb", title: "resident memory", unit: "MB", less: true, bare: true},
			{key: "rss_kb", title: "of that for each flow", unit: "kB", digits: 1, less: true, goal: goal{absolute, 21.5}, bare: true}, // 2 GiB of 100,000
			{key: "opened_per_s", title: "opened", unit: "1/s", bare: true},
		},
	}}, note: "Opened as fast as eight client addresses can, and then one in twenty exchanges a byte once a second. Measured once."},
}

func one(a netip.Addr) []netip.Addr { return []netip.Addr{a} }

// stream is a TCP row: which way, how many at once, and the goal.
type stream struct {
	up   bool
	n    int
	goal float64
}

func tcpRows(prefix string, cpuGoal bool, to func(target) netip.Addr, streams []stream) []row {
	var rows []row
	for _, st := range streams {
		r := row{name: prefix + ".", metrics: []metric{
			{key: "gbps", unit: "Gb/s", digits: 2, kernel: nearDirect, chart: prefix},
			{key: "cpu_machine", title: "CPU of the machine", unit: "s/GB", digits: 2, less: true, chart: "cpu"},
			{key: "cpu_translator", title: "CPU of the translator", unit: "s/GB", digits: 2, less: true, bare: true},
		}}
		way := "down"
		if st.up {
			way = "up"
		}
		n := string(rune('0' + st.n))
		r.name += way + n
		r.title = way + " x" + n
		if st.goal > 0 {
			r.metrics[0].goal = goal{ofDirect, st.goal}
		}
		if cpuGoal {
			r.metrics[1].goal = goal{ofDirect, 1.8}
		} else {
			r.metrics[1].chart = ""
		}
		r.ask = func(s scale, t target) request {
			return request{Kind: "tcp", To: one(to(t)), Seconds: s.Seconds, Up: st.up, Streams: st.n}
		}
		rows = append(rows, r)
	}
	return rows
}

var udpRows = []row{
	udpRow("udp.flood1400", "flood of 1400 B", 1400, 0,
		metric{key: "kpps", title: "received", unit: "kpps", digits: 1, goal: goal{ofDirect, 0.7}, kernel: nearDirect, chart: "udp"},
		metric{key: "loss", title: "lost", unit: "%", digits: 1, less: true, bare: true}),
	udpRow("udp.flood64", "flood of 64 B", 64, 0,
		metric{key: "kpps", title: "received", unit: "kpps", digits: 1, goal: goal{ofDirect, 0.7}, kernel: nearDirect, chart: "udp"},
		metric{key: "loss", title: "lost", unit: "%", digits: 1, less: true, bare: true}),
	udpRow("udp.paced", "300 Mb/s of 1400 B", 1400, 300,
		metric{key: "mbps", title: "received", unit: "Mb/s", bare: true},
		metric{key: "loss", title: "lost", unit: "%", digits: 2, less: true, goal: goal{beyond, 0.5}, kernel: goal{beyond, 0.5}, chart: "udp"}),
}

func udpRow(name, title string, size int, mbit float64, metrics ...metric) row {
	return row{name: name, title: title, metrics: metrics, ask: func(s scale, t target) request {
		return request{Kind: "udp", To: one(t.ip6), Seconds: s.Seconds, Size: size, Mbit: mbit}
	}}
}
