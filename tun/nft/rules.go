package nft

import (
	"maps"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// family is what differs between IPv6 and IPv4.
type family struct {
	v4      bool
	suffix  string // of the names
	nfproto byte
	icmp    byte
	echo    byte // the type of an echo request
	lost    byte // the type of an error that says that there is no way
	codes   []byte
	address nftables.SetDatatype
	source  uint32 // where in the header
	dest    uint32
	size    uint32
	// Registers that follow each other without a gap, each for one address.
	registers [2]uint32
}

var families = [2]family{
	{
		suffix: "6", nfproto: unix.NFPROTO_IPV6, icmp: unix.IPPROTO_ICMPV6, echo: 128,
		lost: 1, codes: []byte{0, 3}, // no route, address unreachable (RFC 4443 section 3.1)
		address: nftables.TypeIP6Addr, source: 8, dest: 24, size: 16,
		registers: [2]uint32{unix.NFT_REG_1, unix.NFT_REG_2},
	},
	{
		v4: true, suffix: "4", nfproto: unix.NFPROTO_IPV4, icmp: unix.IPPROTO_ICMP, echo: 8,
		lost: 3, codes: []byte{0, 1}, // net unreachable, host unreachable (RFC 792)
		address: nftables.TypeIPAddr, source: 12, dest: 16, size: 4,
		registers: [2]uint32{unix.NFT_REG32_00, unix.NFT_REG32_01},
	},
}

const (
	// priority is before that of other programs' nat chains (-100): what is in
	// an anycast prefix is ours to translate.
	priority = -105
	// A repeated SYN is looked at before its destination is rewritten, when the
	// connection tracking (-200) knows it; an ICMP error when what it quotes has
	// been written back (100).
	synPriority  = -150
	lostPriority = 110
	// sourcePriority is behind that of other programs (100): how the packets of
	// other hosts leave is the host's to say, and a flow is translated once.
	sourcePriority = 105

	// silentFor is how long the map's word about an AA does not count after a
	// member of it was found silent, as with the resolver's suspects.
	silentFor = 10 * time.Second

	// turns is how many places there are for the members of one AA with
	// ByTurn. Each member has as many as any other, or one more.
	turns = 64

	// maxPins bounds each map, and maxSilent each set.
	maxPins   = 1 << 20
	maxSilent = 1 << 16

	// leastTTL is of a new element, if it is given none.
	leastTTL = time.Second
)

// Time-outs in seconds. Pinned flows are promised what the TUN's have; an
// entry of a flow in the TUN must outlive it there, lest its next packet is
// taken for that of a new one.
const (
	udpIdle  = 300 // RFC 4787 section 4.3
	dnsIdle  = 30
	echoIdle = 60         // RFC 5508 section 3.2
	tcpIdle  = 5 * 86_400 // what Linux has; RFC 5382 asks for 2 h 4 min
	dnsPort  = 53
)

func (t *Table) newHalf(f family) *half {
	h := &half{family: f}
	key := f.address
	switch t.config.Key {
	case BySource:
		key = nftables.MustConcatSetType(f.address, f.address)
	case ByTurn:
		key = nftables.MustConcatSetType(f.address, nftables.TypeMark)
	}
	h.prefixes = &nftables.Set{Table: t.table, Name: "aa" + f.suffix, KeyType: f.address, Interval: true}
	h.pins = &nftables.Set{
		Table: t.table, Name: "pins" + f.suffix, IsMap: true, KeyType: key, DataType: f.address,
		HasTimeout: true, Timeout: leastTTL, Size: maxPins,
	}
	h.silent = &nftables.Set{
		Table: t.table, Name: "silent" + f.suffix, KeyType: f.address,
		HasTimeout: true, Timeout: silentFor, Dynamic: true, Size: maxSilent,
	}
	h.used = t.newUsed(f)
	return h
}

// addTimeouts adds the objects that hold them, unless they are there. Their names
// say what is in them, since those that are there are never changed.
func (t *Table) addTimeouts() {
	for _, h := range t.half {
		add := func(name string, proto byte, policy expr.CtStatePolicyTimeout) {
			t.nft.AddObj(&nftables.NamedObj{Table: t.table, Name: name + h.suffix, Type: nftables.ObjTypeCtTimeout, Obj: &expr.CtTimeout{
				L3Proto: uint16(h.nfproto), L4Proto: proto, Policy: policy,
			}})
		}
		both := func(seconds uint32) expr.CtStatePolicyTimeout {
			return expr.CtStatePolicyTimeout{expr.CtStateUDPUNREPLIED: seconds, expr.CtStateUDPREPLIED: seconds}
		}
		add("udp-300s-", unix.IPPROTO_UDP, both(udpIdle))
		add("udp-600s-", unix.IPPROTO_UDP, both(2*udpIdle))
		add("dns-30s-", unix.IPPROTO_UDP, both(dnsIdle))
		add("dns-60s-", unix.IPPROTO_UDP, both(2*dnsIdle))
		// The library has no names for ICMP's states: there is one, the first.
		add("echo-60s-", h.icmp, expr.CtStatePolicyTimeout{0: echoIdle})
		add("echo-120s-", h.icmp, expr.CtStatePolicyTimeout{0: 2 * echoIdle})
		tcp := maps.Clone(expr.CtStateTCPTimeoutDefaults)
		tcp[expr.CtStateTCPSYNSENT], tcp[expr.CtStateTCPESTABLISHED] = 120, tcpIdle
		add("tcp-5d-", unix.IPPROTO_TCP, tcp)
	}
}

func (t *Table) addChains() {
	// What programs here send, and what other hosts do.
	bases := []*nftables.Chain{
		t.addBase("output", nftables.ChainTypeNAT, nftables.ChainHookOutput, priority),
		t.addBase("prerouting", nftables.ChainTypeNAT, nftables.ChainHookPrerouting, priority),
	}
	again, lost := t.addWatches()
	if t.config.Masquerade {
		t.addSource()
	}
	for _, base := range bases {
		t.rule(base, mark(t.config.Mark), verdict(expr.VerdictReturn, ""))
	}
	for _, h := range t.half {
		if h.bridges {
			t.addLeaveBridges(h, bases[1])
		}
		t.addPinChain(h)
		t.addFlowChain(h)
		for _, base := range bases {
			t.rule(base, h.version(), h.load(h.dest, h.registers[0]), lookup(h.prefixes, h.registers[0]), verdict(expr.VerdictJump, "flow"+h.suffix))
		}
		t.addSYNWatch(h, again)
		t.addLostWatch(h, lost)
	}
}

// addWatches adds what sees every packet of the host. Each meets one rule there
// and, but for a few, no more; what may say that a member is silent goes on to the
// chains that are returned.
func (t *Table) addWatches() (again, lost *nftables.Chain) {
	again = t.nft.AddChain(&nftables.Chain{Name: "syn", Table: t.table})
	lost = t.nft.AddChain(&nftables.Chain{Name: "lost", Table: t.table})
	known := join(state(expr.CtStateBitNEW), status(statusConfirmed), status(statusDNAT), verdict(expr.VerdictJump, again.Name))
	about := join(state(expr.CtStateBitRELATED), status(statusDNAT), verdict(expr.VerdictJump, lost.Name))
	t.rule(t.addBase("syn-output", nftables.ChainTypeFilter, nftables.ChainHookOutput, synPriority), known)
	t.rule(t.addBase("syn-prerouting", nftables.ChainTypeFilter, nftables.ChainHookPrerouting, synPriority), known)
	t.rule(t.addBase("lost-input", nftables.ChainTypeFilter, nftables.ChainHookInput, lostPriority), about)
	t.rule(t.addBase("lost-postrouting", nftables.ChainTypeFilter, nftables.ChainHookPostrouting, lostPriority), about)
	return again, lost
}

// addSource adds what has the flows of other hosts come from this one: those that
// were given a member here, and nobody else's, whose source is no address of ours.
func (t *Table) addSource() {
	chain := t.addBase("postrouting", nftables.ChainTypeNAT, nftables.ChainHookPostrouting, sourcePriority)
	t.rule(chain, labelled(), one(&expr.Fib{Register: scratch, FlagSADDR: true, ResultADDRTYPE: true}),
		one(&expr.Cmp{Op: expr.CmpOpNeq, Register: scratch, Data: binaryutil.NativeEndian.PutUint32(unix.RTN_LOCAL)}), one(&expr.Masq{}))
}

func (t *Table) addBase(name string, kind nftables.ChainType, hook *nftables.ChainHook, at nftables.ChainPriority) *nftables.Chain {
	return t.nft.AddChain(&nftables.Chain{Name: name, Table: t.table, Type: kind, Hooknum: hook, Priority: &at})
}

// addFlowChain adds what becomes of the first packet of a flow to an AA. A rule
// that jumps and comes back has met a miss.
func (t *Table) addFlowChain(h *half) {
	chain := t.nft.AddChain(&nftables.Chain{Name: "flow" + h.suffix, Table: t.table})
	timeout := func(name string) part {
		return one(&expr.Objref{Type: unix.NFT_OBJECT_CT_TIMEOUT, Name: name + h.suffix})
	}
	try := verdict(expr.VerdictJump, "pin"+h.suffix)
	t.rule(chain, protocol(unix.IPPROTO_TCP), syn(), timeout("tcp-5d-"), try)
	t.rule(chain, protocol(unix.IPPROTO_UDP), port(expr.CmpOpEq, dnsPort), timeout("dns-30s-"), try)
	t.rule(chain, protocol(unix.IPPROTO_UDP), port(expr.CmpOpEq, dnsPort), timeout("dns-60s-"))
	t.rule(chain, protocol(unix.IPPROTO_UDP), port(expr.CmpOpNeq, dnsPort), timeout("udp-300s-"), try)
	t.rule(chain, protocol(unix.IPPROTO_UDP), port(expr.CmpOpNeq, dnsPort), timeout("udp-600s-"))
	t.rule(chain, protocol(h.icmp), icmp(h.echo), timeout("echo-60s-"), try)
	t.rule(chain, protocol(h.icmp), icmp(h.echo), timeout("echo-120s-"))
}

// addPinChain adds the look-up itself, and that it had an answer is noted. An
// element that finds no room ends its rule; the last rule serves then, unnoted.
func (t *Table) addPinChain(h *half) {
	chain := t.nft.AddChain(&nftables.Chain{Name: "pin" + h.suffix, Table: t.table})
	// The parts of a key stand side by side, without a gap.
	first, second := h.registers[0], h.registers[1]
	key, aa := h.load(h.dest, first), first
	switch t.config.Key {
	case BySource:
		key, aa = join(h.load(h.source, first), h.load(h.dest, second)), second
	case ByTurn:
		key = join(key, one(&expr.Numgen{Register: second, Modulus: turns, Type: unix.NFT_NG_INCREMENTAL}))
	}
	t.rule(chain, h.version(), h.load(h.dest, first), lookup(h.silent, first), verdict(expr.VerdictReturn, ""))
	find := one(&expr.Lookup{SetName: h.pins.Name, SetID: h.pins.ID, SourceRegister: first, DestRegister: answer, IsDestRegSet: true})
	rewrite := join(label(), one(&expr.NAT{Type: expr.NATTypeDestNAT, Family: uint32(h.nfproto), RegAddrMin: answer}))
	t.rule(chain, h.version(), key, find, h.noteUse(aa), rewrite)
	t.rule(chain, h.version(), key, find, rewrite)
}

// addSYNWatch adds what notices that a member does not answer: a SYN of a
// translated flow that is known already, so one that is sent again. The chain is met
// by those only.
func (t *Table) addSYNWatch(h *half, chain *nftables.Chain) {
	t.rule(chain, h.version(), protocol(unix.IPPROTO_TCP), syn(),
		h.load(h.dest, h.registers[0]), lookup(h.prefixes, h.registers[0]), h.note())
}

// addLostWatch adds what notices that there is no way to a member: an error that
// quotes a packet of a translated flow. The chain is met by what is about such flows.
func (t *Table) addLostWatch(h *half, chain *nftables.Chain) {
	const icmpHeader = 8 // bytes, in either family
	for _, code := range h.codes {
		t.rule(chain, h.version(), protocol(h.icmp), icmp(h.lost), icmpCode(code),
			one(&expr.Payload{DestRegister: h.registers[0], Base: expr.PayloadBaseTransportHeader, Offset: icmpHeader + h.dest, Len: h.size}),
			lookup(h.prefixes, h.registers[0]), h.note())
	}
}

// note notes that a member of the AA is silent.
func (h *half) note() part {
	return one(&expr.Dynset{SrcRegKey: h.registers[0], SetName: h.silent.Name, SetID: h.silent.ID, Operation: unix.NFT_DYNSET_OP_UPDATE, Timeout: silentFor})
}

const (
	statusConfirmed = 1 << 3 // IPS_CONFIRMED
	statusDNAT      = 1 << 5 // IPS_DST_NAT
)

// ours is the label (connlabel) of the flows that were given a member here. Others
// may have translated flows to the same address.
var ours = []byte{15: 0x80}

// label gives a flow the label, and labelled matches those that have it.
func label() part {
	return part{
		&expr.Immediate{Register: scratch, Data: ours},
		&expr.Ct{Key: expr.CtKeyLABELS, Register: scratch, SourceRegister: true},
	}
}

func labelled() part {
	none := make([]byte, len(ours))
	return part{
		&expr.Ct{Key: expr.CtKeyLABELS, Register: scratch},
		&expr.Bitwise{SourceRegister: scratch, DestRegister: scratch, Len: uint32(len(ours)), Mask: ours, Xor: none},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: scratch, Data: none},
	}
}

// part is a piece of a rule.
type part []expr.Any

func one(e expr.Any) part { return part{e} }

func join(parts ...part) (all part) {
	for _, p := range parts {
		all = append(all, p...)
	}
	return all
}

func (t *Table) rule(chain *nftables.Chain, parts ...part) {
	t.nft.AddRule(&nftables.Rule{Table: t.table, Chain: chain, Exprs: join(parts...)})
}

// answer is the register for what the map has given, scratch one that no address
// is kept in.
const (
	answer  = unix.NFT_REG_3
	scratch = unix.NFT_REG_4
)

func verdict(kind expr.VerdictKind, chain string) part {
	return one(&expr.Verdict{Kind: kind, Chain: chain})
}

func lookup(set *nftables.Set, register uint32) part {
	return one(&expr.Lookup{SetName: set.Name, SetID: set.ID, SourceRegister: register})
}

func equals(data []byte) expr.Any { return &expr.Cmp{Op: expr.CmpOpEq, Register: scratch, Data: data} }

func mark(m uint32) part {
	return part{&expr.Meta{Key: expr.MetaKeyMARK, Register: scratch}, equals(binaryutil.NativeEndian.PutUint32(m))}
}

func protocol(p byte) part {
	return part{&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: scratch}, equals([]byte{p})}
}

func (f family) version() part {
	return part{&expr.Meta{Key: expr.MetaKeyNFPROTO, Register: scratch}, equals([]byte{f.nfproto})}
}

// load reads an address from the packet.
func (f family) load(offset, register uint32) part {
	return one(&expr.Payload{DestRegister: register, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: f.size})
}

// transport compares a field of the transport header.
func transport(op expr.CmpOp, offset uint32, data ...byte) part {
	return part{
		&expr.Payload{DestRegister: scratch, Base: expr.PayloadBaseTransportHeader, Offset: offset, Len: uint32(len(data))},
		&expr.Cmp{Op: op, Register: scratch, Data: data},
	}
}

func port(op expr.CmpOp, number uint16) part {
	return transport(op, 2, byte(number>>8), byte(number))
}

func icmp(kind byte) part { return transport(expr.CmpOpEq, 0, kind) }

func icmpCode(code byte) part { return transport(expr.CmpOpEq, 1, code) }

// syn matches the first segment of a client: of FIN, SYN, RST and ACK it has SYN
// alone (RFC 9293 section 3.1).
func syn() part {
	return part{
		&expr.Payload{DestRegister: scratch, Base: expr.PayloadBaseTransportHeader, Offset: 13, Len: 1},
		&expr.Bitwise{SourceRegister: scratch, DestRegister: scratch, Len: 1, Mask: []byte{0x17}, Xor: []byte{0}},
		equals([]byte{0x02}),
	}
}

// state and status match if the bit is set.
func state(bit uint32) part { return tracked(expr.CtKeySTATE, bit) }

func status(bit uint32) part { return tracked(expr.CtKeySTATUS, bit) }

func tracked(key expr.CtKey, bit uint32) part {
	number := binaryutil.NativeEndian.PutUint32
	return part{
		&expr.Ct{Key: key, Register: scratch},
		&expr.Bitwise{SourceRegister: scratch, DestRegister: scratch, Len: 4, Mask: number(bit), Xor: number(0)},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: scratch, Data: number(0)},
	}
}
