// Threads of Rust's standard library: each kind of wait that it has, two busy, one writing numbered lines.
// threads LINES_FILE WAIT_MS [quiet]. "quiet": without those three. Prints "ready", then "NAME ASKED_NS TOOK_NS" for
// each wait that has ended, by Instant (CLOCK_MONOTONIC), then "done". Knows nothing of livecr.

use std::fs::File;
use std::io::Write;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{channel, RecvTimeoutError};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::{Duration, Instant};

fn sleep(time: Duration) {
    thread::sleep(time);
}

fn condvar(time: Duration) {
    let mutex = Mutex::new(());
    let condvar = Condvar::new();
    let end = Instant::now() + time;
    let mut guard = mutex.lock().unwrap();
    // The library allows spurious wake-ups: go on until the time is over.
    while let Some(left) = end.checked_duration_since(Instant::now()) {
        guard = condvar.wait_timeout(guard, left).unwrap().0;
    }
}

fn channel_receive(time: Duration) {
    let (_sender, receiver) = channel::<u32>();
    assert_eq!(receiver.recv_timeout(time), Err(RecvTimeoutError::Timeout));
}

fn park(time: Duration) {
    let end = Instant::now() + time;
    while let Some(left) = end.checked_duration_since(Instant::now()) {
        thread::park_timeout(left);
    }
}

fn busy(over: &AtomicBool) {
    let mut last = Instant::now();
    let mut state = 1u64;
    while !over.load(Ordering::Relaxed) {
        for _ in 0..1000 {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        }
        let now = Instant::now();
        assert!(now >= last, "the clock went back");
        last = now;
    }
    assert_ne!(state, 0);
}

fn write_lines(name: &str, over: &AtomicBool) {
    let mut file = File::create(name).unwrap();
    let mut number = 0;
    while !over.load(Ordering::Relaxed) {
        number += 1;
        writeln!(file, "{number}").unwrap();
        if number % 7 == 0 {
            thread::sleep(Duration::from_micros(500));
        }
    }
}

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let asked = Duration::from_millis(arguments[2].parse().unwrap());
    let over = Arc::new(AtomicBool::new(false));
    let waits: [(&str, fn(Duration)); 4] =
        [("sleep", sleep), ("condvar", condvar), ("channel", channel_receive), ("park", park)];
    let timed: Vec<_> = (0..8)
        .map(|i| {
            let (name, wait) = waits[i % 4];
            thread::spawn(move || {
                let began = Instant::now();
                wait(asked);
                println!("{name}-{i} {} {}", asked.as_nanos(), began.elapsed().as_nanos());
            })
        })
        .collect();
    let (sender, receiver) = channel();
    let mut others = vec![thread::spawn(move || println!("fed {}", receiver.recv().unwrap()))];
    if arguments.get(3).map_or(true, |word| word != "quiet") {
        for _ in 0..2 {
            let over = over.clone();
            others.push(thread::spawn(move || busy(&over)));
        }
        let (name, until) = (arguments[1].clone(), over.clone());
        others.push(thread::spawn(move || write_lines(&name, &until)));
    }
    println!("ready");
    for thread in timed {
        thread.join().unwrap();
    }
    sender.send(42).unwrap();
    over.store(true, Ordering::Relaxed);
    for thread in others {
        thread.join().unwrap();
    }
    println!("done");
}
