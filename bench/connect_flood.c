/*
 * Makes distinct events at a steady rate: UDP connect() to ever new 127.x.y.z:port.
 * usage: connect_flood EVENTS_PER_SECOND SECONDS; prints how many it made and how long it took.
 */
#include <arpa/inet.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <time.h>

static uint64_t now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000000000ULL + t.tv_nsec;
}

int main(int argc, char **argv)
{
	if (argc != 3)
		return 2;
	const double per_ns = atof(argv[1]) / 1e9;
	const uint64_t total = atof(argv[1]) * atof(argv[2]);
	const int fd = socket(AF_INET, SOCK_DGRAM, 0);
	const uint64_t start = now_ns();

	for (uint64_t made = 0; made < total; made++) {
		while (made >= (now_ns() - start) * per_ns)
			;
		struct sockaddr_in to = {
			.sin_family = AF_INET,
			.sin_port = htons(1024 + made % 60000),
			.sin_addr.s_addr = htonl(0x7f000001 + made / 60000 * 7919 % 0xfffffd),
		};
		if (connect(fd, (struct sockaddr *)&to, sizeof(to)) < 0) {
			perror("connect");
			return 1;
		}
	}
	printf("%llu %.6f\n", (unsigned long long)total, (now_ns() - start) / 1e9);
	return 0;
}
