package main

import (
	"crypto/ed25519"
	"net/netip"
	"slices"

	"aarptun/internal/config"
)

// pskFiles is a flag [PREFIX=]FILE that may be given once for each prefix.
type pskFiles struct{ files *map[netip.Prefix]string }

func (pskFiles) String() string { return "" }
func (pskFiles) Type() string   { return "[PREFIX=]FILE" }

func (p pskFiles) Set(text string) error {
	prefix, file, err := config.ParseKeyed(text)
	if err != nil {
		return err
	}
	if *p.files == nil {
		*p.files = map[netip.Prefix]string{}
	}
	(*p.files)[prefix] = file
	return nil
}

// publicKeys is a flag [PREFIX=]KEY that may be given several times.
type publicKeys struct {
	keys *map[netip.Prefix][]ed25519.PublicKey
}

func (publicKeys) String() string { return "" }
func (publicKeys) Type() string   { return "[PREFIX=]KEY" }

func (p publicKeys) Set(text string) error {
	prefix, key, err := config.ParsePublicKey(text)
	if err != nil {
		return err
	}
	if *p.keys == nil {
		*p.keys = map[netip.Prefix][]ed25519.PublicKey{}
	}
	if !slices.ContainsFunc((*p.keys)[prefix], func(k ed25519.PublicKey) bool { return k.Equal(key) }) {
		(*p.keys)[prefix] = append((*p.keys)[prefix], key)
	}
	return nil
}
