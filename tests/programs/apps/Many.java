// Three hundred threads wait for the file that is named, then each sleeps and adds its number. Prints "ready", then the sum.
// Knows nothing of livecr.
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.atomic.AtomicLong;

public class Many {
    static final int THREADS = 300;

    public static void main(String[] arguments) throws Exception {
        CountDownLatch there = new CountDownLatch(THREADS), go = new CountDownLatch(1);
        AtomicLong sum = new AtomicLong();
        Thread[] threads = new Thread[THREADS];
        for (int i = 0; i < THREADS; i++) {
            int number = i + 1;
            threads[i] = new Thread(() -> {
                try {
                    there.countDown();
                    go.await();
                    Thread.sleep(number % 10);
                } catch (InterruptedException interrupted) {
                    return; // and its number is missing
                }
                sum.addAndGet(number);
            });
            threads[i].start();
        }
        there.await();
        System.out.println("ready");
        while (!Files.exists(Path.of(arguments[0]))) Thread.sleep(10);
        go.countDown();
        for (Thread thread : threads) thread.join();
        System.out.println(sum);
    }
}
