package main

import (
	"fmt"
	"net"
	"os"
	"syscall"
	"time"
	"unsafe"
)

const (
	patience   = 10 * time.Second // for answers, after the last request was due
	epollWait2 = 441              // epoll_pwait2, the same number on amd64 and arm64: its timeout has nanoseconds
)

type connection struct {
	fd       int
	intended int64
	busy     bool
	filled   int
	buffer   [8192]byte
}

type load struct {
	address syscall.SockaddrInet4
	request *request
	epoll   int
	byFd    map[int32]*connection
	free    *queue
	epoch   time.Time
	events  []syscall.EpollEvent
}

type result struct {
	latency, lateness []int64 // nanoseconds
	statuses          [600]int
	broken, lost      int
	nanoseconds       int64
}

func newLoad(address string, request *request, connections int) (*load, error) {
	tcp, err := net.ResolveTCPAddr("tcp4", address)
	if err != nil {
		return nil, err
	}
	epoll, err := syscall.EpollCreate1(0)
	if err != nil {
		return nil, err
	}
	l := &load{request: request, epoll: epoll, byFd: map[int32]*connection{}, epoch: time.Now(), free: newQueue(connections),
		events: make([]syscall.EpollEvent, connections)}
	l.address = syscall.SockaddrInet4{Port: tcp.Port, Addr: [4]byte(tcp.IP.To4())}
	for range connections {
		if err := l.open(&connection{}); err != nil {
			return nil, err
		}
	}
	return l, nil
}

func (l *load) now() int64 { return int64(time.Since(l.epoch)) }

func (l *load) open(c *connection) error {
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return os.NewSyscallError("socket", err)
	}
	if err := syscall.Connect(fd, &l.address); err != nil {
		return os.NewSyscallError("connect", err)
	}
	syscall.SetsockoptInt(fd, syscall.IPPROTO_TCP, syscall.TCP_NODELAY, 1)
	syscall.SetNonblock(fd, true)
	*c = connection{fd: fd}
	l.byFd[int32(fd)] = c
	l.free.put(c)
	event := syscall.EpollEvent{Events: syscall.EPOLLIN | syscall.EPOLLRDHUP, Fd: int32(fd)}
	return os.NewSyscallError("epoll_ctl", syscall.EpollCtl(l.epoll, syscall.EPOLL_CTL_ADD, fd, &event))
}

// run makes total requests: at rate a second, or one per free connection when rate is 0.
func (l *load) run(total int, rate float64) result {
	r := result{latency: make([]int64, 0, total), lateness: make([]int64, 0, total)}
	due, start := l.schedule(rate)
	end := max(due(total), start) + int64(patience)
	sent := 0
	for len(r.latency)+r.broken < total && l.now() < end {
		sent = l.sendDue(&r, sent, total, due)
		wait := end - l.now()
		if sent < total && l.free.size > 0 {
			wait = due(sent) - l.now()
		}
		if l.receive(&r, wait) > 0 && rate == 0 {
			end = l.now() + int64(patience)
		}
	}
	r.nanoseconds = l.now() - start
	r.lost = total - len(r.latency) - r.broken
	l.forget()
	return r
}

// schedule gives the moment at which request i falls due; without a rate that is always now.
func (l *load) schedule(rate float64) (due func(int) int64, start int64) {
	start = l.now()
	if rate == 0 {
		return func(int) int64 { return l.now() }, start
	}
	return func(i int) int64 { return start + int64(float64(i)*1e9/rate) }, start
}

func (l *load) sendDue(r *result, sent, total int, due func(int) int64) int {
	for sent < total && l.free.size > 0 {
		intended, now := due(sent), l.now()
		if intended > now {
			break
		}
		l.send(r, intended, now)
		sent++
	}
	return sent
}

// forget drops the connections that still wait for an answer: it must not be taken for one of the next run.
func (l *load) forget() {
	var unused result
	for _, c := range l.byFd {
		if c.busy {
			l.replace(&unused, c)
		}
	}
}

func (l *load) send(r *result, intended, now int64) {
	c := l.free.take()
	c.intended, c.busy, c.filled = intended, true, 0
	r.lateness = append(r.lateness, now-intended)
	text := l.request.next()
	if n, err := syscall.Write(c.fd, text); err != nil || n < len(text) {
		l.replace(r, c)
	}
}

func (l *load) receive(r *result, wait int64) int {
	n := l.wait(max(wait, 0))
	for _, event := range l.events[:n] {
		l.read(r, l.byFd[event.Fd])
	}
	return n
}

// A raw system call: with one goroutine there is nobody to hand the processor to.
func (l *load) wait(nanoseconds int64) int {
	timeout := syscall.NsecToTimespec(nanoseconds)
	n, _, failed := syscall.RawSyscall6(epollWait2, uintptr(l.epoll), uintptr(unsafe.Pointer(&l.events[0])),
		uintptr(len(l.events)), uintptr(unsafe.Pointer(&timeout)), 0, 0)
	if failed == syscall.EINTR {
		return 0
	}
	if failed != 0 {
		panic(os.NewSyscallError("epoll_pwait2", failed))
	}
	return int(n)
}

func (l *load) read(r *result, c *connection) {
	n, err := syscall.Read(c.fd, c.buffer[c.filled:])
	if err == syscall.EAGAIN {
		return
	}
	if n <= 0 {
		l.replace(r, c)
		return
	}
	c.filled += n
	status, length, ok := parse(c.buffer[:c.filled])
	if !ok || c.filled == len(c.buffer) || !c.busy {
		l.replace(r, c)
		return
	}
	if length > 0 {
		l.answered(r, c, status)
	}
}

func (l *load) answered(r *result, c *connection, status int) {
	r.latency = append(r.latency, l.now()-c.intended)
	r.statuses[status%len(r.statuses)]++
	c.busy = false
	l.free.put(c)
}

// replace closes a connection that is of no more use and opens another in its place.
func (l *load) replace(r *result, c *connection) {
	if c.busy {
		r.broken++
	}
	l.free.remove(c)
	delete(l.byFd, int32(c.fd))
	syscall.Close(c.fd)
	if err := l.open(c); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
