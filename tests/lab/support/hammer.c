/* hammer PROCESSES THREADS CALLS FILE...: opens each file in turn, CALLS times in every thread of
 * every process. Prints, for each file, how often it was opened, how often refused with EPERM, and
 * how often anything else came back. */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#define MAX_FILES 8

struct counts {
	atomic_int opened, refused, other, last_errno;
};

static struct counts *shared;
static char **files;
static int calls, count;

static void *work(void *unused)
{
	for (int call = 0; call < calls; call++) {
		struct counts *counts = &shared[call % count];
		int fd = open(files[call % count], O_RDONLY);

		if (fd >= 0) {
			atomic_fetch_add(&counts->opened, 1);
			close(fd);
		} else if (errno == EPERM) {
			atomic_fetch_add(&counts->refused, 1);
		} else {
			atomic_fetch_add(&counts->other, 1);
			atomic_store(&counts->last_errno, errno);
		}
	}
	return unused;
}

int main(int argc, char **argv)
{
	int processes = atoi(argv[1]), threads = atoi(argv[2]);

	calls = atoi(argv[3]);
	files = argv + 4;
	count = argc - 4;
	shared = mmap(NULL, MAX_FILES * sizeof(*shared), PROT_READ | PROT_WRITE,
		      MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	for (int process = 0; process < processes; process++) {
		if (fork())
			continue;
		pthread_t started[64];
		for (int i = 0; i < threads; i++)
			pthread_create(&started[i], NULL, work, NULL);
		for (int i = 0; i < threads; i++)
			pthread_join(started[i], NULL);
		_exit(0);
	}
	while (wait(NULL) > 0)
		;
	for (int i = 0; i < count; i++)
		printf("%d %d %d %d\n", shared[i].opened, shared[i].refused, shared[i].other,
		       shared[i].last_errno);
	return 0;
}
