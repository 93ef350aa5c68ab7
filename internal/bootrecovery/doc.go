// Package bootrecovery says, from what is stored of a rollout and what is seen on the host, what the agent does next.
//
// [Recover] is pure: it takes a record and facts as values and gives back a verdict. The agent asks it when it starts,
// before anything is dispatched, and again on a slow tick. The verdict is idempotent: carried out twice, or asked for again
// after it was carried out, it changes nothing more.
//
// A reboot is proven by the boot id, never assumed from a restart of the agent; a soft reboot keeps the boot id and brings
// no new kernel. What runs is what the links of the host say.
package bootrecovery
