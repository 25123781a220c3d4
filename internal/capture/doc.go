// Package capture writes what crosses the TUN device to a pcapng file, for
// tshark, Wireshark and their like.
//
// A [Tap] is a device around the device: it passes every packet on as it is, and
// leaves a copy in a queue that [Tap.Run] writes from. The data path never waits
// for the file: what the queue has no room for is counted and not written. So is
// what comes when the file has reached its size, or when it can no longer be
// written; the file then ends with the last whole packet.
//
// Packets are as they cross the device, without the virtio_net_hdr before them:
// with the offloads one may stand for many segments, and have only the sum of the
// pseudo-header in its checksum's place. Each has its direction as tcpdump has it
// on the device: out is from a client into the device, in is to a client.
package capture
