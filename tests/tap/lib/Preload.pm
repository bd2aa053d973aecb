# A library in front of the C library of a test's server: it shows another time, and it runs out of disk space.
#
#   my $preload = Preload->new;             # before the server starts: it inherits LD_PRELOAD
#   $preload->set_clock(-7200);             # seconds by which the wall clock is off; monotonic clocks are never
#   $preload->fill_disk; $preload->free_disk;   # no file of a table grows meanwhile; WAL and logs do
#
# Debian's libfaketime would do for the clock, but is one more package, and has no disk.
package Preload;
use strict;
use warnings;
use PostgreSQL::Test::Utils ();
use Time::HiRes ();

my $SOURCE = <<'C';
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#define REAL(type, name, ...) static type (*real)(__VA_ARGS__); if (!real) real = (type (*)(__VA_ARGS__)) dlsym(RTLD_NEXT, #name)

/* The file holds the seconds; reading it each time makes a change valid at once, in every process. */
static long offset(void)
{
	char text[32] = {0};
	int saved = errno, file = open(OFFSET_FILE, O_RDONLY | O_CLOEXEC);
	if (file >= 0) {
		if (read(file, text, sizeof text - 1) < 0) text[0] = 0;
		close(file);
	}
	errno = saved;
	return atol(text);
}

int gettimeofday(struct timeval *restrict now, void *restrict zone)
{
	struct timespec at;
	REAL(int, clock_gettime, clockid_t, struct timespec *);
	(void) zone;
	real(CLOCK_REALTIME, &at);
	now->tv_sec = at.tv_sec + offset();
	now->tv_usec = at.tv_nsec / 1000;
	return 0;
}

int clock_gettime(clockid_t clock, struct timespec *at)
{
	REAL(int, clock_gettime, clockid_t, struct timespec *);
	int rc = real(clock, at);
	if (rc == 0 && clock == CLOCK_REALTIME) at->tv_sec += offset();
	return rc;
}

time_t time(time_t *at)
{
	struct timespec now;
	clock_gettime(CLOCK_REALTIME, &now);
	if (at) *at = now.tv_sec;
	return now.tv_sec;
}

/* Not in a signal handler, where the first call could come otherwise. */
__attribute__((constructor)) static void look_up(void)
{
	struct timeval now;
	gettimeofday(&now, NULL);
	time(NULL);
}

/* Whether a write at this place makes a table's file longer while the disk is full. */
static int is_full(int file, off_t end)
{
	char link[64], path[1024];
	struct stat status;
	ssize_t length;
	if (access(FULL_FILE, F_OK) != 0) return 0;
	snprintf(link, sizeof link, "/proc/self/fd/%d", file);
	length = readlink(link, path, sizeof path - 1);
	if (length < 0 || fstat(file, &status) != 0) return 0;
	path[length] = 0;
	if (!strstr(path, "/base/") || end <= status.st_size) return 0;
	errno = ENOSPC;
	return 1;
}

ssize_t pwrite64(int file, const void *data, size_t size, off_t at)
{
	REAL(ssize_t, pwrite64, int, const void *, size_t, off_t);
	return is_full(file, at + size) ? -1 : real(file, data, size, at);
}
ssize_t pwrite(int file, const void *data, size_t size, off_t at) { return pwrite64(file, data, size, at); }

ssize_t pwritev64(int file, const struct iovec *parts, int count, off_t at)
{
	REAL(ssize_t, pwritev64, int, const struct iovec *, int, off_t);
	off_t end = at;
	for (int i = 0; i < count; i++) end += parts[i].iov_len;
	return is_full(file, end) ? -1 : real(file, parts, count, at);
}
ssize_t pwritev(int file, const struct iovec *parts, int count, off_t at) { return pwritev64(file, parts, count, at); }

int posix_fallocate64(int file, off_t at, off_t size)
{
	REAL(int, posix_fallocate64, int, off_t, off_t);
	return is_full(file, at + size) ? ENOSPC : real(file, at, size);
}
int posix_fallocate(int file, off_t at, off_t size) { return posix_fallocate64(file, at, size); }
C

sub new
{
	my ($class) = @_;
	my $dir = PostgreSQL::Test::Utils::tempdir();
	my $self = bless { offset => "$dir/offset", full => "$dir/full" }, $class;
	PostgreSQL::Test::Utils::append_to_file("$dir/preload.c", $SOURCE);
	system('cc', '-shared', '-fPIC', '-O1', '-o', "$dir/preload.so", "-DOFFSET_FILE=\"$self->{offset}\"", "-DFULL_FILE=\"$self->{full}\"",
		"$dir/preload.c", '-ldl') == 0 or die 'the library cannot be compiled';
	$self->set_clock(0);
	$ENV{LD_PRELOAD} = "$dir/preload.so";
	return $self;
}

# In one step: a reader sees the old number or the new one.
sub set_clock
{
	my ($self, $seconds) = @_;
	PostgreSQL::Test::Utils::append_to_file("$self->{offset}.new", "$seconds\n");
	rename "$self->{offset}.new", $self->{offset} or die $!;
	return;
}

sub fill_disk { my ($self) = @_; PostgreSQL::Test::Utils::append_to_file($self->{full}, 'full'); return; }

sub free_disk { my ($self) = @_; unlink $self->{full} or die $!; return; }

1;
