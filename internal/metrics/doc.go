// Package metrics shows Prometheus what the rooms count.
//
// There is one collector. It keeps nothing itself: at each scrape it asks the
// rooms for their Stats and says them again under the names of docs/metrics.md,
// which follow https://prometheus.io/docs/practices/naming. Every series is there
// from the start, at zero, so that a rate sees its first step; a label has one of a
// few fixed words, and never an address.
//
// The [Server] answers GET /metrics on a listener of its own, for everybody who
// can reach it: it can be read that this host carries flows, and how many, and not
// whose. It bounds what a client can make it hold: connections, time, headers, and
// scrapes at once.
package metrics
