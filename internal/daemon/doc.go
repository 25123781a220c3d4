// Package daemon assembles the rooms into a running translator and owns the
// end of every goroutine.
//
// Start: device, ping, member, resolver, nat, stack, metrics, admin; then privileges
// are dropped that only this took; the routes last, for from then on clients depend
// on us; then READY. Stop: the flows may drain, and new
// ones meet silence; then the rules and routes go; then everything is cancelled
// and waited for; then the device and the journal go.
//
// On SIGHUP the configuration is read anew, and the rooms are told another plan
// while flows go on; see reload.go.
package daemon
