/* Shims: make one system call in the program's place with other arguments, then give its registers back.
 *
 * A call that answers EINTR to a mere freeze is made again with the time that is left, for which an argument has to
 * differ from the program's own. But a system call leaves all registers but rax, rcx and r11 as they were, and
 * compilers rely on it. So it is made here. The argument that differs points at a struct timespec, and that is the
 * beginning of a slot: the data of one task's shim. The task enters with the slot in that register and leaves with the
 * program's own registers. A signal handler that interrupts the call returns here and goes the same way.
 *
 * This code fills the first page of a region, which is only read and executed; the slots are behind it. It knows no
 * addresses, so it may stand anywhere. Instructions use nothing but the registers that a system call destroys anyway:
 * a conservative garbage collector that looks at an interrupted task finds every pointer that the program had.
 *
 * The layout is known to livecr/target/shim.py: the table here, and the words of a slot.
 */
        .text
        .globl shim
shim:
        .ascii "livecr>\4"
        /* Of each shim: where it is entered; where it is back from the call; where rax is the result and rcx the address
           to go to; where all but rcx is the program's own. Then what is in between in some. */
        .short  in_rdx - shim, in_rdx_back - shim, in_rdx_leave - shim, in_rdx_left - shim
        .short  in_r10 - shim, in_r10_back - shim, in_r10_leave - shim, in_r10_left - shim
        .short  in_r8 - shim, in_r8_back - shim, in_r8_leave - shim, in_r8_left - shim
        .short  poll - shim, poll_back - shim, poll_leave - shim, poll_left - shim
        .short  rest - shim, rest_back - shim, rest_leave - shim, rest_left - shim
        .short  lend - shim, lend_set - shim, lend_leave - shim, lend_left - shim
        .short  lend_ready - shim, lend_back - shim, lend_kept - shim, lend_over - shim
        .short  in_rdx_added - shim, in_r10_added - shim, in_r8_added - shim
        .short  poll_own - shim, poll_expired - shim, poll_failed - shim, poll_to_rest - shim
        .short  rest_counted - shim, rest_failed - shim

        /* A slot, 8 bytes each. seconds and nanoseconds come first. */
        own_rdi = 32
        own_rsi = 40
        own_rdx = 48
        own_r10 = 56
        own_r8 = 64
        own_r9 = 72
        back = 80                       /* behind the program's own `syscall` */
        number = 88                     /* of the program's own call */
        pollfd = 16
        expired = 96                    /* poll: what its call returns when its time is over */
        moved = 128                     /* what was done before; in poll and rest bytes, and which call moves the others */
        mover = 136
        address = 144
        size = 152
        flags = 160
        enough = 168
        own_rbx = 176                   /* of lend, which has its slot there, since a call may need all other registers */
        lent = 184                      /* whether the socket's timeout is still to be put back */
        option = 192
        original = 200                  /* a struct timeval, SO_RCVTIMEO_NEW or SO_SNDTIMEO_NEW as it was */
        result = 216

        /* All from slot \reg. The exchange marks the slot as free, in the same instant in which it is needed no longer. */
        .macro  leave reg
        .irp    other, rdi, rsi, rdx, r10, r8, r9
        .ifnc   \other, \reg
        movq    own_\other(%\reg), %\other
        .endif
        .endr
        xchgq   own_\reg(%\reg), %\reg
        .endm

        /* One call. To its result is added what the program's own had done before; then an error counts as nothing. */
        .macro  call_with reg
in_\reg:        syscall
in_\reg\()_back:
        movq    moved(%\reg), %rcx
        jrcxz   in_\reg\()_added
        testq   %rax, %rax
        jns     0f
        xorl    %eax, %eax
0:      addq    %rcx, %rax
in_\reg\()_added:
        movq    back(%\reg), %rcx       /* as the program's own call would have left it */
in_\reg\()_leave:
        leave   \reg
in_\reg\()_left:
        jmp     *%rcx
        .endm

        call_with rdx
        call_with r10
        call_with r8

        /* rax is the result, unless something has been moved. Leaves by slot \reg. */
        .macro  or_moved reg
        movq    back(%\reg), %rcx
        movq    moved(%\reg), %r11
        testq   %r11, %r11
        cmovneq %r11, %rax
        .endm

        /* ppoll(2) until there is something to do for the program's own call, then that call itself, or what moves the
           rest of it. */
poll:   syscall
poll_back:
        testq   %rax, %rax
        js      poll_failed
        jz      poll_expired
        cmpq    $0, mover(%rdx)
        jne     poll_to_rest
poll_own:
        movq    back(%rdx), %rcx
        leaq    -2(%rcx), %rcx          /* its `syscall` */
        movq    number(%rdx), %rax
        jmp     poll_leave
poll_expired:
        movq    expired(%rdx), %rax
poll_failed:
        or_moved rdx
poll_leave:
        leave   rdx
poll_left:
        jmp     *%rcx

poll_to_rest:
        movq    %rdx, %r9
        movq    mover(%r9), %rax
        movl    pollfd(%r9), %edi
        movq    address(%r9), %rsi
        addq    moved(%r9), %rsi
        movq    size(%r9), %rdx
        subq    moved(%r9), %rdx
        movq    flags(%r9), %r10
        xorl    %r8d, %r8d

        /* write(2), sendto(2) or recvfrom(2) of what has not been moved; and again, until it is enough. */
rest:   syscall
rest_back:
        testq   %rax, %rax
        js      rest_failed
        jz      rest_over
        addq    %rax, moved(%r9)
rest_counted:
        movq    enough(%r9), %rcx
        cmpq    moved(%r9), %rcx        /* 0: it waits by itself */
        jbe     rest_over
rest_poll:
        movl    $271, %eax
        leaq    pollfd(%r9), %rdi
        movl    $1, %esi
        movq    %r9, %rdx               /* ppoll has left there what is left */
        xorl    %r10d, %r10d
        xorl    %r8d, %r8d
        jmp     poll
rest_failed:
        cmpq    $-11, %rax              /* EAGAIN: another task was quicker */
        jne     rest_over
        cmpq    $0, enough(%r9)
        jne     rest_poll
rest_over:
        or_moved r9
rest_leave:
        leave   r9
rest_left:
        jmp     *%rcx

/* setsockopt(2) of a socket's timeout to what is left, the program's own call, and the timeout as it was. */
lend:   syscall
lend_set:
        testq   %rax, %rax
        js      lend_over
lend_ready:
        movq    address(%rbx), %rdi     /* the call's own, but for where a 32-bit one goes another way */
        movq    size(%rbx), %rsi
        movq    own_rdx(%rbx), %rdx
        movq    own_r10(%rbx), %r10
        movq    own_r8(%rbx), %r8
        movq    own_r9(%rbx), %r9
        movq    mover(%rbx), %rax
        syscall
lend_back:
        cmpq    $0, lent(%rbx)
        je      lend_over
        movq    %rax, result(%rbx)
lend_kept:
        movl    pollfd(%rbx), %edi
        movl    $1, %esi                /* SOL_SOCKET */
        movl    option(%rbx), %edx
        leaq    original(%rbx), %r10
        movl    $16, %r8d
        movl    $54, %eax
        syscall
        movq    result(%rbx), %rax
lend_over:
        movq    back(%rbx), %rcx
lend_leave:
        leave   rbx
lend_left:
        jmp     *%rcx
