// Package config is what an operator can ask of aarptun: the typed
// configuration, its defaults, and the rules a value must obey. Every error
// names the value, what is wrong with it, and what to write instead.
package config
