/* Times one kind of call in rows, as its standard input says:
 *
 *     open PATH COUNT | exec PATH COUNT | connect ADDRESS COUNT | associate ADDRESS COUNT
 *
 * (`connect` is TCP, to a listener of its own, of which nothing but the call itself is timed;
 * `associate` the same call on a UDP socket, which does nothing but note the address) and answers a
 * line: nanoseconds a call (the median of BLOCKS blocks) and the errno of the last. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define BLOCKS 20

static struct sockaddr_in address;
static int udp, listener;
static int error;
static double aside; /* what was not spent in the call */

static double nanoseconds(void)
{
	struct timespec now;
	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec * 1e9 + now.tv_nsec;
}

static void open_once(const char *path)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		error = errno;
	else
		close(fd);
}

static void exec_once(const char *path)
{
	char *argv[] = {(char *)path, "exit", NULL}, *envp[] = {NULL};
	volatile int failed = 0;
	int status;
	pid_t child = vfork();
	if (!child) {
		execve(path, argv, envp);
		failed = errno;
		_exit(0);
	}
	waitpid(child, &status, 0);
	if (failed)
		error = failed;
}

static void associate_once(const char *unused)
{
	(void)unused;
	if (connect(udp, (struct sockaddr *)&address, sizeof(address)))
		error = errno;
}

static void connect_once(const char *unused)
{
	struct linger at_once = {1, 0};
	double begun = nanoseconds();
	int tcp = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	double calls = nanoseconds();
	int failed = connect(tcp, (struct sockaddr *)&address, sizeof(address));
	double returned = nanoseconds();

	(void)unused;
	if (failed)
		error = errno;
	else
		close(accept(listener, NULL, NULL));
	setsockopt(tcp, SOL_SOCKET, SO_LINGER, &at_once, sizeof(at_once));
	close(tcp);
	aside += nanoseconds() - returned + calls - begun;
}

static int compare(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;
	return (x > y) - (x < y);
}

static double row(void (*call)(const char *), const char *subject, int count)
{
	double blocks[BLOCKS];
	int each = count / BLOCKS ? count / BLOCKS : 1;

	call(subject);
	error = 0;
	for (int block = 0; block < BLOCKS; block++) {
		double begun = nanoseconds();
		aside = 0;
		for (int i = 0; i < each; i++)
			call(subject);
		blocks[block] = (nanoseconds() - begun - aside) / each;
	}
	qsort(blocks, BLOCKS, sizeof(*blocks), compare);
	return (blocks[BLOCKS / 2 - 1] + blocks[BLOCKS / 2]) / 2;
}

int main(int argc, char **argv)
{
	char line[4096], kind[16], subject[2048];
	struct sockaddr_in own = {.sin_family = AF_INET};
	socklen_t size = sizeof(own);
	int count;

	(void)argv;
	if (argc > 1)
		return 0; /* what exec_once starts */
	udp = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (bind(listener, (struct sockaddr *)&own, size) || listen(listener, 1) ||
	    getsockname(listener, (struct sockaddr *)&own, &size))
		return 1;
	address.sin_family = AF_INET;
	address.sin_port = own.sin_port;
	while (fgets(line, sizeof(line), stdin)) {
		double each;
		if (sscanf(line, "%15s %2047s %d", kind, subject, &count) != 3)
			return 1;
		if (kind[0] == 'o' || kind[0] == 'e') {
			each = row(kind[0] == 'e' ? exec_once : open_once, subject, count);
		} else {
			inet_pton(AF_INET, subject, &address.sin_addr);
			each = row(kind[0] == 'a' ? associate_once : connect_once, subject, count);
		}
		printf("%.1f %d\n", each, error);
		fflush(stdout);
	}
	return 0;
}
