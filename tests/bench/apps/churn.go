// SPDX-License-Identifier: Apache-2.0

// A garbage-collected heap that is rewritten all the time and knows what it holds.
//
//	churn LIVE RATE       MiB of live objects; MB (10^6 bytes) of new objects a second
//
// The live objects hang in short lists; a new one goes to the front of a list chosen at random and the last one of it becomes
// garbage, so that the collector both marks through pointers and frees. An object carries its number and the checksum of its
// bytes; the number that each list begins with is kept apart. Says on stdout, a line for each pass over everything that lives:
//
//	pass <n> verified <objects> objects, wrong <objects since the start>, heap <MiB> collections <n>
package main

import (
	"fmt"
	"hash/crc32"
	"os"
	"runtime"
	"runtime/debug"
	"strconv"
	"sync"
	"time"
	"unsafe"
)

const (
	listLength  = 8
	garbageRoom = 45 // percent of the live heap that may be garbage before a collection
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

type object struct {
	next   *object
	number uint64
	sum    uint32
	bytes  []byte
}

type list struct {
	lock   sync.Mutex
	first  *object
	newest uint64 // what first.number must be
	length int
}

func scramble(x uint64) uint64 { // splitmix64: https://prng.di.unimi.it/splitmix64.c
	x += 0x9e3779b97f4a7c15
	x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9
	x = (x ^ (x >> 27)) * 0x94d049bb133111eb
	return x ^ (x >> 31)
}

// Sizes from 64 bytes to 32 KiB, as many of each doubling: small ones share pages, large ones have spans of their own.
func sizeOf(number uint64) int {
	random := scramble(number)
	doubling := 64 << (random % 9)
	return doubling + int(random>>32)%doubling
}

func content(number uint64) []byte {
	bytes := make([]byte, sizeOf(number))
	word := scramble(number ^ 0x5bd1e995)
	for i := 0; i+8 <= len(bytes); i += 8 {
		word = word*6364136223846793005 + 1442695040888963407
		for j := 0; j < 8; j++ {
			bytes[i+j] = byte(word >> (8 * j))
		}
	}
	return bytes
}

func newObject(number uint64) *object {
	bytes := content(number)
	return &object{number: number, sum: crc32.Checksum(bytes, castagnoli), bytes: bytes}
}

func (o *object) right() bool {
	return len(o.bytes) == sizeOf(o.number) && crc32.Checksum(o.bytes, castagnoli) == o.sum
}

// Where the first wrong byte is and what is there: zeros and older content tell different stories.
func (o *object) tell() {
	expected := content(o.number)
	fmt.Printf("WRONG: object %d at %p: %d bytes at %p, should be %d", o.number, o, len(o.bytes), unsafe.SliceData(o.bytes), len(expected))
	first, last, count := -1, -1, 0
	for i := 0; i < min(len(expected), len(o.bytes)); i++ {
		if o.bytes[i] != expected[i] {
			if first < 0 {
				first = i
			}
			last = i
			count++
		}
	}
	if first >= 0 {
		fmt.Printf("; %d wrong in [%d, %d], from %p on: % x", count, first, last, &o.bytes[first], o.bytes[first:min(first+32, len(o.bytes))])
	}
	fmt.Println()
}

// Puts a new object first; the one beyond listLength becomes garbage.
func (l *list) push(o *object) {
	l.lock.Lock()
	defer l.lock.Unlock()
	o.next, l.first, l.newest = l.first, o, o.number
	if l.length < listLength {
		l.length++
		return
	}
	last := o
	for i := 1; i < listLength; i++ {
		last = last.next
	}
	last.next = nil
}

// How many objects were looked at, their bytes, and how many of them are not as they should be.
func (l *list) verify() (objects, size, wrong int) {
	l.lock.Lock()
	defer l.lock.Unlock()
	if l.first != nil && l.first.number != l.newest {
		wrong++
	}
	for o := l.first; o != nil; o = o.next {
		objects++
		size += len(o.bytes)
		if !o.right() {
			wrong++
			o.tell()
		}
	}
	if objects != l.length {
		wrong++
	}
	return objects, size, wrong
}

// By the monotonic clock, in small slices: time that the process stood still is not made up for.
func churn(lists []list, number uint64, rate float64) {
	owed, last := 0.0, time.Now()
	for {
		time.Sleep(2 * time.Millisecond)
		now := time.Now()
		owed += now.Sub(last).Seconds() * rate
		for last = now; owed > 0; number++ {
			o := newObject(number)
			owed -= float64(len(o.bytes))
			lists[scramble(number*3)%uint64(len(lists))].push(o)
		}
	}
}

func verifyForEver(lists []list) {
	wrong := 0
	for pass := 1; ; pass++ {
		objects, since := 0, 0
		for i := range lists {
			n, size, bad := lists[i].verify()
			objects, wrong, since = objects+n, wrong+bad, since+size
			if since > 1<<20 { // a few hundred MB a second leave the machine to others
				time.Sleep(2 * time.Millisecond)
				since = 0
			}
		}
		var memory runtime.MemStats
		runtime.ReadMemStats(&memory)
		fmt.Printf("pass %d verified %d objects, wrong %d, heap %d MiB collections %d\n", pass, objects, wrong, memory.HeapSys>>20, memory.NumGC)
	}
}

func main() {
	if len(os.Args) != 3 {
		fmt.Fprintln(os.Stderr, "usage: churn LIVE_MIB RATE")
		os.Exit(2)
	}
	live, _ := strconv.Atoi(os.Args[1])
	rate, _ := strconv.ParseFloat(os.Args[2], 64)
	debug.SetGCPercent(garbageRoom)
	total := 0
	for doubling := 64; doubling <= 32768/2; doubling *= 2 {
		total += doubling * 3 / 2
	}
	lists := make([]list, max(1, (live<<20)/(total/9+64)/listLength))
	number := uint64(1)
	for i := range lists {
		for j := 0; j < listLength; j++ {
			lists[i].push(newObject(number))
			number++
		}
	}
	fmt.Printf("ready %d objects\n", number-1)
	go churn(lists, number, rate*1e6)
	verifyForEver(lists)
}
