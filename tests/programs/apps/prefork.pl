# A server that forks beforehand: four children accept, and one that has died is replaced. prefork.pl PORT. Answers
# each connection with "CHILD PARENT SERVED", the last being how many it has served. At SIGTERM it ends its children and
# prints how many it has started, and how many have ended at its order. Knows nothing of livecr.
use strict;
use warnings;
use IO::Socket::INET;

my ($port) = @ARGV;
my $listener = IO::Socket::INET->new(LocalAddr => '127.0.0.1', LocalPort => $port, Listen => 64, ReuseAddr => 1)
    or die "cannot listen: $@";
my ($parent, $over, $started, $ordered, %children) = ($$, 0, 0, 0);

sub child {
    my $served = 0;
    $SIG{TERM} = 'DEFAULT';
    while (my $client = $listener->accept) {
        $served++;
        print $client "$$ $parent $served\n";
        close $client;
    }
    exit 1;
}

$SIG{TERM} = sub { $over = 1; kill TERM => keys %children };
while (1) {
    while (!$over && keys %children < 4) {
        my $pid = fork // die "cannot fork: $!";
        child() if !$pid;
        $children{$pid} = 1;
        $started++;
    }
    last if $over && !%children;
    my $ended = waitpid(-1, 0);
    next if $ended < 0;
    die "$ended is no child of mine" if !delete $children{$ended};
    $ordered++ if $over && $? == 15;
}
print "started $started, ended $ordered\n";
