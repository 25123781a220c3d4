// Package daemon assembles the rooms into a running translator and owns the
// end of every goroutine.
//
// Start: device, ping, member, resolver, nat, stack, admin; the routes last, for from
// then on clients depend on us; then READY. Stop: the routes first, so that no
// new flow comes; then the flows may drain; then everything is cancelled and
// waited for; then the device and the journal go.
package daemon
