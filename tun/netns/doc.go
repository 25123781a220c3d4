// Package netns is for clients that live in another network namespace than we
// do: a container, a pod, or one command.
//
// # Theory of operation
//
// A device belongs to the namespace that it was made in, and a socket to the one
// it was opened in, wherever either is used from. So only the making of the
// device, its routes and its rules is done inside the other namespace
// ([Namespace.Do]), and everything else stays where it is: the probes and the
// flows to members leave from our own namespace, which the routes inside do not
// touch, and need no mark to bypass them.
//
//	their namespace           ours
//	programs -> device -----> stack -> nat -> sockets -> members
//
// A namespace belongs to a thread. The goroutine that works in another one keeps
// its thread to itself and never gives it back: the thread ends with it, and no
// other goroutine can find itself in the wrong place.
//
// # The end of a namespace
//
// Our descriptor of the device keeps the kernel from taking the namespace down, and
// would do so for ever. So [Namespace.Follow] looks once a second whether anybody
// else still has it: it has a name (the path it was opened by, or any other mount
// of it), or a process lives in it. When there is neither, nobody can come
// there any more but by us, and its context ends. A descriptor that some process
// holds without living there, and a name that only another mount namespace has,
// are not seen.
//
// # One command
//
// [Exec] makes a namespace for one command, as a plain user. Three processes take part,
// each of them this program:
//
//	the first     is what the shell waits for: it makes the [Plan], starts the other
//	              two, and hands on signals, stops and the end (supervise.go)
//	the child     is cloned into new namespaces, makes the device there ([Child]),
//	              sends its descriptor to the daemon, and becomes the command
//	the daemon    takes the device ([Daemon], [Carrier]) and carries its packets,
//	              until the first process says that the command has ended
//
// They find out by a variable of the environment which they are, and are held
// together by two pairs of sockets, so that the end of one is known to the others at
// once. When the first process is killed, the kernel kills the command, and the daemon
// reads the end of its socket. Nothing has a name that two runs could fight for.
package netns
