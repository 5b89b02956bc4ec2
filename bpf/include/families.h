/* Address families of sockets; they are macros in the kernel, so vmlinux.h has none of them. */
#pragma once

#define AF_UNIX	 1
#define AF_INET	 2
#define AF_INET6 10
