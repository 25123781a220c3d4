package metrics

import (
	"cmp"
	"slices"

	"aarptun/resolver"
	"aarptun/resolver/member"
)

// The reasons why answers are not believed are sentences, which may be worded
// anew; the words of a label may not. Each must be here, which is tested; what is
// not is counted as other.
const otherReason = "other"

var resolverReasons = map[resolver.Refusal]string{
	resolver.RefusedClass:    "address_class",
	resolver.RefusedFamily:   "address_family",
	resolver.RefusedOwn:      "own_address",
	resolver.RefusedAnycast:  "anycast_prefix",
	resolver.RefusedNotAllow: "not_allowed",
	resolver.RefusedSelf:     "self",
	resolver.RefusedPrivate:  "private_address",
	resolver.RefusedProof:    "not_proved",
	resolver.RefusedResponds: "self_with_responder",
}

var stunReasons = map[member.Refusal]string{
	member.RefusedMalformed:   "malformed",
	member.RefusedSource:      "source",
	member.RefusedError:       "error_code",
	member.RefusedAnswer:      "not_asked",
	member.RefusedUA:          "address",
	member.RefusedNoMAC:       "no_mac",
	member.RefusedMAC:         "wrong_mac",
	member.RefusedNoSignature: "no_signature",
	member.RefusedKey:         "key_not_pinned",
	member.RefusedSignature:   "wrong_signature",
	member.RefusedEarly:       "too_early",
	member.RefusedLate:        "too_late",
	member.RefusedUnconfirmed: "unconfirmed",
	member.RefusedMany:        "too_many",
}

// refusals makes a sample for each reason, counted or not.
func refusals[R ~string](words map[R]string, counts map[R]uint64) []sample {
	totals := map[string]uint64{otherReason: 0}
	for _, word := range words {
		totals[word] = 0
	}
	for reason, n := range counts {
		totals[cmp.Or(words[reason], otherReason)] += n
	}
	var all []sample
	for word, n := range totals {
		all = append(all, sample{word, float64(n)})
	}
	slices.SortFunc(all, func(a, b sample) int { return cmp.Compare(a.label, b.label) })
	return all
}
