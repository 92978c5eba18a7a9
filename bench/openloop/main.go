// Openloop loads one server with reservations, every buyer new.
//
// With -rate it keeps a schedule: request i is due at start + i/rate whether or not earlier ones were
// answered, and its latency counts from that moment. A server that stalls is charged for everyone who
// would have come meanwhile (no coordinated omission). With -steps it reads counts from standard input
// and makes that many reservations, as fast as they are answered, for each.
//
// One thread and epoll, no goroutine per connection: the generator shares the cores with the server it
// measures, so what it spends is missing there.
package main

import (
	"bufio"
	"encoding/json"
	"flag"
	"fmt"
	"log"
	"os"
	"runtime"
	"runtime/debug"
	"slices"
	"strconv"
	"time"
)

type report struct {
	Answered  int            `json:"answered"`
	Seconds   float64        `json:"seconds"`
	PerSecond float64        `json:"perSecond"`
	P50       float64        `json:"p50Ms"`
	P99       float64        `json:"p99Ms"`
	P999      float64        `json:"p999Ms"`
	Max       float64        `json:"maxMs"`
	SentLate  float64        `json:"sentLateP99Ms"` // of the latency, what passed before the request left
	Statuses  map[string]int `json:"statuses"`
	Broken    int            `json:"broken"` // connections that ended with a request open
	Lost      int            `json:"lost"`   // due, and without an answer when patience ended
}

func main() {
	address := flag.String("address", "127.0.0.1:8080", "host:port of the server")
	sku := flag.String("sku", "BENCH-1", "product to reserve")
	seed := flag.Uint64("seed", uint64(time.Now().UnixNano()&0xffffffff), "keeps the buyers of runs apart")
	connections := flag.Int("connections", 256, "keep-alive connections")
	rate := flag.Float64("rate", 1000, "requests a second")
	duration := flag.Duration("duration", 10*time.Second, "how long requests fall due")
	warmup := flag.Duration("warmup", time.Second, "the same before, not counted")
	steps := flag.Bool("steps", false, "closed loop: counts from standard input")
	flag.Parse()
	runtime.LockOSThread()
	debug.SetGCPercent(-1) // nothing is allocated while measuring
	load, err := newLoad(*address, newRequest(*address, *sku, *seed<<32), *connections)
	if err != nil {
		log.Fatal(err)
	}
	if *steps {
		serveSteps(load)
		return
	}
	load.run(int(*rate*warmup.Seconds()), *rate)
	print(load.run(int(*rate*duration.Seconds()), *rate))
}

func serveSteps(load *load) {
	input := bufio.NewScanner(os.Stdin)
	for input.Scan() {
		count, err := strconv.Atoi(input.Text())
		if err != nil {
			log.Fatal(err)
		}
		print(load.run(count, 0))
		runtime.GC()
	}
}

func print(r result) {
	text, err := json.Marshal(summary(r))
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(string(text))
}

func summary(r result) report {
	answered := len(r.latency)
	for range r.lost { // who was never answered waited longest
		r.latency = append(r.latency, int64(patience))
	}
	slices.Sort(r.latency)
	slices.Sort(r.lateness)
	statuses := map[string]int{}
	for status, count := range r.statuses {
		if count > 0 {
			statuses[strconv.Itoa(status)] = count
		}
	}
	seconds := float64(r.nanoseconds) / 1e9
	return report{
		Answered: answered, Seconds: seconds, PerSecond: float64(answered) / seconds,
		P50: percentile(r.latency, 0.5), P99: percentile(r.latency, 0.99), P999: percentile(r.latency, 0.999),
		Max: percentile(r.latency, 1), SentLate: percentile(r.lateness, 0.99),
		Statuses: statuses, Broken: r.broken, Lost: r.lost,
	}
}

func percentile(sorted []int64, share float64) float64 {
	if len(sorted) == 0 {
		return 0
	}
	place := int(share*float64(len(sorted))+0.999999) - 1
	return float64(sorted[min(max(place, 0), len(sorted)-1)]) / 1e6
}
