// Package nat holds the promise "one flow, one server".
package nat
