// Threads of the JVM: each kind of wait that its library has, busy ones that allocate so that the collector runs
// and check what survives it, one that reads through null pointers (the JVM makes exceptions of SIGSEGV), one
// writing numbered lines. Threads LINES_FILE WAIT_MS [quiet]. "quiet": only those that wait. Prints "ready", then
// "NAME ASKED_NS TOOK_NS" for each wait that has ended, by System.nanoTime(), then "done". Knows nothing of livecr.

import java.io.FileOutputStream;
import java.util.ArrayList;
import java.util.List;
import java.util.concurrent.ArrayBlockingQueue;
import java.util.concurrent.Executors;
import java.util.concurrent.ScheduledExecutorService;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.locks.LockSupport;

public class Threads {
    interface Body {
        void run() throws Exception;
    }

    static volatile boolean over = false;
    static volatile boolean failed = false;
    static long asked;

    static synchronized void say(String text) {
        System.out.println(text);
        System.out.flush();
    }

    static Thread start(Body body) {
        Thread thread = new Thread(() -> {
            try {
                body.run();
            } catch (Throwable error) {
                failed = true;
                error.printStackTrace();
            }
        });
        thread.start();
        return thread;
    }

    static Thread timed(String name, Body wait) {
        return start(() -> {
            long began = System.nanoTime();
            wait.run();
            say(name + " " + asked + " " + (System.nanoTime() - began));
        });
    }

    static void objectWait() throws Exception {
        Object monitor = new Object();
        long end = System.nanoTime() + asked;
        synchronized (monitor) {
            for (long left; (left = end - System.nanoTime()) > 0;) {
                monitor.wait(left / 1_000_000, (int) (left % 1_000_000));
            }
        }
    }

    static void park() {
        long end = System.nanoTime() + asked;
        for (long left; (left = end - System.nanoTime()) > 0;) {
            LockSupport.parkNanos(left);
        }
    }

    static void poll() throws Exception {
        if (new ArrayBlockingQueue<Integer>(1).poll(asked, TimeUnit.NANOSECONDS) != null) {
            throw new AssertionError("something came from an empty queue");
        }
    }

    static void allocate() {
        List<int[]> kept = new ArrayList<>();
        long last = System.nanoTime();
        for (int turn = 0; !over; turn++) {
            int[] block = new int[256];
            block[0] = turn;
            block[255] = ~turn;
            if (turn % 64 == 0) {
                kept.add(block);
            }
            if (kept.size() == 4096) {
                for (int[] old : kept) {
                    if (old[0] != ~old[255]) {
                        throw new AssertionError("a block was changed");
                    }
                }
                kept.clear();
            }
            long now = System.nanoTime();
            if (now < last) {
                throw new AssertionError("the clock went back");
            }
            last = now;
        }
    }

    static int[] nothing = null;

    static void dereferenceNull() throws Exception {
        long caught = 0;
        while (!over) {
            try {
                say("read " + nothing[3]);
                throw new AssertionError("null was read");
            } catch (NullPointerException expected) {
                caught++;
            }
            if (caught % 100 == 0) {
                Thread.sleep(1);
            }
        }
    }

    static void writeLines(String name) throws Exception {
        try (FileOutputStream file = new FileOutputStream(name)) {
            for (int number = 1; !over; number++) {
                file.write((number + "\n").getBytes());
                if (number % 7 == 0) {
                    Thread.sleep(0, 500_000);
                }
            }
        }
    }

    public static void main(String[] arguments) throws Exception {
        asked = Long.parseLong(arguments[1]) * 1_000_000;
        List<Thread> waiting = new ArrayList<>();
        for (int i = 0; i < 3; i++) {
            waiting.add(timed("sleep-" + i, () -> Thread.sleep(asked / 1_000_000)));
            waiting.add(timed("wait-" + i, Threads::objectWait));
            waiting.add(timed("park-" + i, Threads::park));
            waiting.add(timed("poll-" + i, Threads::poll));
        }
        ScheduledExecutorService executor = Executors.newScheduledThreadPool(2);
        for (int i = 0; i < 3; i++) {
            String name = "scheduled-" + i + " " + asked + " ";
            long began = System.nanoTime();
            executor.schedule(() -> say(name + (System.nanoTime() - began)), asked, TimeUnit.NANOSECONDS);
        }
        ArrayBlockingQueue<Integer> fed = new ArrayBlockingQueue<>(1);
        List<Thread> others = new ArrayList<>();
        others.add(start(() -> say("fed " + fed.take())));
        if (arguments.length < 3 || !arguments[2].equals("quiet")) {
            others.add(start(Threads::allocate));
            others.add(start(Threads::allocate));
            others.add(start(Threads::dereferenceNull));
            others.add(start(() -> writeLines(arguments[0])));
        }
        say("ready");
        for (Thread thread : waiting) {
            thread.join();
        }
        executor.shutdown();
        executor.awaitTermination(10, TimeUnit.SECONDS);
        fed.put(42);
        over = true;
        for (Thread thread : others) {
            thread.join();
        }
        say(failed ? "failed" : "done");
    }
}
