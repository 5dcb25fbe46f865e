/* Another time of day for the programs of a server: preloaded into them, it adds what stands in /clock/offset (seconds,
 * 64 bits), which can change at any moment. Only the time of day jumps, as when a clock is set; time that passes does
 * not. Waits until a time of day are told the kernel in its own.
 * (With libfaketime, told to leave the monotonic clock alone, time.sleep() of Python fails.) */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdarg.h>
#include <stdint.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>
#include <linux/futex.h>

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

static const volatile int64_t *shown;

__attribute__((constructor)) static void open_offset(void) {
    int file = open("/clock/offset", O_RDONLY | O_CLOEXEC);
    if (file < 0) return;
    void *mapped = mmap(NULL, 8, PROT_READ, MAP_SHARED, file, 0);
    close(file);
    if (mapped != MAP_FAILED) shown = mapped;
}

static int64_t offset(void) { return shown ? *shown : 0; }

static int is_day(clockid_t clock) { return clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE; }

int clock_gettime(clockid_t clock, struct timespec *now) {
    static __typeof__(&clock_gettime) real;
    if (!real) real = REAL(clock_gettime);
    int result = real(clock, now);
    if (!result && is_day(clock)) now->tv_sec += offset();
    return result;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone) {
    (void)zone;
    struct timespec exact;
    int result = clock_gettime(CLOCK_REALTIME, &exact);
    now->tv_sec = exact.tv_sec;
    now->tv_usec = exact.tv_nsec / 1000;
    return result;
}

time_t time(time_t *where) {
    struct timespec exact;
    clock_gettime(CLOCK_REALTIME, &exact);
    if (where) *where = exact.tv_sec;
    return exact.tv_sec;
}

/* A time of day is some 1.8 billion seconds, one of the monotonic clock not: nothing else tells of a condition variable
 * which of the two it waits for. */
static const struct timespec *kernels(const struct timespec *until, struct timespec *own) {
    if (!until || until->tv_sec < 1000000000) return until;
    *own = *until;
    own->tv_sec -= offset();
    return own;
}

int pthread_cond_timedwait(pthread_cond_t *condition, pthread_mutex_t *mutex, const struct timespec *until) {
    static __typeof__(&pthread_cond_timedwait) real;
    if (!real) real = (__typeof__(&pthread_cond_timedwait))dlvsym(RTLD_NEXT, "pthread_cond_timedwait", "GLIBC_2.3.2");
    struct timespec own;
    return real(condition, mutex, kernels(until, &own));
}

int pthread_cond_clockwait(pthread_cond_t *condition, pthread_mutex_t *mutex, clockid_t clock,
                           const struct timespec *until) {
    static __typeof__(&pthread_cond_clockwait) real;
    if (!real) real = REAL(pthread_cond_clockwait);
    struct timespec own;
    return real(condition, mutex, clock, kernels(until, &own));
}

int sem_timedwait(sem_t *semaphore, const struct timespec *until) {
    static __typeof__(&sem_timedwait) real;
    if (!real) real = REAL(sem_timedwait);
    struct timespec own;
    return real(semaphore, kernels(until, &own));
}

int sem_clockwait(sem_t *semaphore, clockid_t clock, const struct timespec *until) {
    static __typeof__(&sem_clockwait) real;
    if (!real) real = REAL(sem_clockwait);
    struct timespec own;
    return real(semaphore, clock, kernels(until, &own));
}

int clock_nanosleep(clockid_t clock, int flags, const struct timespec *until, struct timespec *left) {
    static __typeof__(&clock_nanosleep) real;
    if (!real) real = REAL(clock_nanosleep);
    struct timespec own;
    return real(clock, flags, flags & TIMER_ABSTIME ? kernels(until, &own) : until, left);
}

/* Abseil, below gRPC, waits for futexes itself. */
long syscall(long number, ...) {
    static long (*real)(long, ...);
    if (!real) real = (long (*)(long, ...))dlsym(RTLD_NEXT, "syscall");
    va_list given;
    va_start(given, number);
    long a = va_arg(given, long), b = va_arg(given, long), c = va_arg(given, long), d = va_arg(given, long),
         e = va_arg(given, long), f = va_arg(given, long);
    va_end(given);
    struct timespec own;
    if (number == SYS_futex && b & FUTEX_CLOCK_REALTIME) d = (long)kernels((const struct timespec *)d, &own);
    return real(number, a, b, c, d, e, f);
}
