// Package admin is how an operator looks into a running daemon: HTTP with JSON
// on a unix socket that only its owner may use.
//
//	GET  /v1/status   Status
//	GET  /v1/flows    Flows
//	GET  /v1/pins     Pins
//
// Any HTTP client will do: curl --unix-socket /run/aarptun/admin.sock
// http://aarptun/v1/flows.
package admin
