// Package admin is how an operator looks into a running daemon: HTTP with JSON
// on a unix socket that only its owner may use.
//
//	GET  /v1/status   Status
//	GET  /v1/flows    Flows; of many, some: ?sort=active&reverse=true&limit=100&match=tcp
//	GET  /v1/pins     Pins
//	GET  /v1/members  Members
//
// Any HTTP client will do: curl --unix-socket /run/aarptun/admin.sock
// http://aarptun/v1/flows.
package admin
