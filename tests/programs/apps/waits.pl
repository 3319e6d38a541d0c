# Waits of Perl, each in a thread: select() with its time as a fraction, on nothing and on a pipe, and the sleeps of
# Time::HiRes. waits.pl WAIT_MS. Prints "ready", then "NAME ASKED_NS TOOK_NS" for each wait that has ended, by
# CLOCK_MONOTONIC, then "done". Knows nothing of livecr.
use strict;
use warnings;
use threads;
use threads::shared;
use Time::HiRes qw(clock_gettime CLOCK_MONOTONIC);

$| = 1;
my $asked_ns = $ARGV[0] * 1e6;
my $seconds = $asked_ns / 1e9 + 5e-7; # perl cuts this to whole microseconds: it must not become less
my $printing : shared;
pipe(my $reader, my $writer) or die "pipe: $!";

sub select_pipe {
    my $set = '';
    vec($set, fileno($reader), 1) = 1;
    return select($set, undef, undef, $seconds);
}

my %waits = (
    'select' => sub { select(undef, undef, undef, $seconds) == 0 or die "select: $!" },
    'select_pipe' => sub { select_pipe() == 0 or die "select: $!" },
    'sleep' => sub { Time::HiRes::sleep($seconds) },
    'nanosleep' => sub { Time::HiRes::nanosleep($asked_ns) },
);

sub timed {
    my ($name) = @_;
    my $began = clock_gettime(CLOCK_MONOTONIC);
    $waits{$name}->();
    my $took = clock_gettime(CLOCK_MONOTONIC) - $began;
    lock($printing);
    printf "%s %d %d\n", $name, $asked_ns, $took * 1e9;
}

my @threads = map { threads->create(\&timed, $_) } sort keys %waits;
{ lock($printing); print "ready\n" }
$_->join() for @threads;
exit 1 if grep { defined $_->error() } @threads;
print "done\n";
