package main

import (
	"crypto/ed25519"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"aarptun/resolver/member"
)

func newKeygen() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "keygen",
		Short: "Make the keys that prove a member's answers",
		Long: `Keygen makes the keys with which members prove their answers, in files that
only their owner can read. It never replaces a key.

A shared key (psk) is the same file on clients and members: "psk ID SECRET", one
key a line. Members accept every key of the file; clients ask with the first.

A private key (ed25519) stays on the member: "ed25519-private KEY", one a line.
Members sign with the first; clients are given the public key, which is printed.

Lines that begin with # are comments. To exchange a shared key: add the new one
on the members, then make it the first line on the clients, then take the old
one away. To exchange a private key: give clients the new public key beside the
old one, then make it the first line on the members, then take the old one away.`,
		Example: `  aarptun keygen psk /etc/aarptun/psk
  aarptun keygen ed25519 /etc/aarptun/member.key >member.pub`,
		Args: oneCommand,
		RunE: func(c *cobra.Command, _ []string) error { return c.Help() },
	}
	cmd.AddCommand(newKeygenPSK(), newKeygenEd25519(), newKeygenPublic())
	return cmd
}

func newKeygenPSK() *cobra.Command {
	var add bool
	var id string
	cmd := &cobra.Command{
		Use:   "psk FILE",
		Short: "Make a key that clients and members share",
		Long: `Psk makes a file with a shared key for clients and members, or adds a key to
one. Carry it to the others by a way that nobody reads.`,
		Example: "  aarptun keygen psk /etc/aarptun/psk",
		Args:    oneArg("a file"),
		RunE: func(c *cobra.Command, args []string) error {
			if !c.Flags().Changed("id") {
				id = time.Now().Format(time.DateOnly)
			}
			return member.NewPSK(args[0], id, add)
		},
	}
	cmd.Flags().StringVar(&id, "id", "", "`NAME` of the key, which goes over the network; without it the date of today")
	cmd.Flags().BoolVar(&add, "add", false, "add the key to a file that is there, as its last")
	return cmd
}

func newKeygenEd25519() *cobra.Command {
	var add bool
	cmd := &cobra.Command{
		Use:   "ed25519 FILE",
		Short: "Make a private key for a member, and print the public one",
		Long: `Ed25519 makes a file with a private key for a member, or adds a key to one, and
prints the public key that clients are given with --pubkey.`,
		Example: "  aarptun keygen ed25519 /etc/aarptun/member.key",
		Args:    oneArg("a file"),
		RunE: func(c *cobra.Command, args []string) error {
			key, err := member.NewPrivateKey(args[0], add)
			if err != nil {
				return err
			}
			return printPublic(c.OutOrStdout(), key)
		},
	}
	cmd.Flags().BoolVar(&add, "add", false, "add the key to a file that is there, as its last")
	return cmd
}

func newKeygenPublic() *cobra.Command {
	return &cobra.Command{
		Use:     "public FILE",
		Short:   "Print the public keys of a file of private ones",
		Long:    `Public prints the public key of each private key in a file, one a line.`,
		Example: "  aarptun keygen public /etc/aarptun/member.key",
		Args:    oneArg("a file"),
		RunE: func(c *cobra.Command, args []string) error {
			keys, err := member.ReadPrivateKeys(args[0])
			if err != nil {
				return err
			}
			return printPublic(c.OutOrStdout(), keys...)
		},
	}
}

func printPublic(w io.Writer, keys ...ed25519.PrivateKey) error {
	for _, key := range keys {
		if _, err := fmt.Fprintln(w, member.FormatPublicKey(key.Public().(ed25519.PublicKey))); err != nil {
			return err
		}
	}
	return nil
}
