// Package config is what an operator can ask of aarptun: the typed
// configuration, its defaults, the rules a value must obey, and where it comes
// from. Every error names the value, what is wrong with it, and what to write
// instead, behind the place where it was written.
//
// # Theory of operation
//
//	file, environment, flags -> settings -> the table of keys -> Config -> Validate
//
// A setting is one text given for one key, with its place. The three sources make
// settings and know nothing of the keys' meaning; the table of keys (keys.go)
// knows how each text is read, and the same table names flags, variables and the
// keys of a file. Of each key the settings of one source count. The rules of
// Validate name the key they are about, and so find the place to blame. What is
// written (write.go) is read again as the same.
package config
