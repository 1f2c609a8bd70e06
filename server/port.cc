#include "server/port.h"

#include <netdb.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <string>

#include "base/str_cat.h"

namespace shoal {

namespace {

// 0, or the errno of what failed.
int TryBind(const addrinfo& info) {
  const int fd = socket(info.ai_family, info.ai_socktype | SOCK_CLOEXEC, info.ai_protocol);
  if (fd < 0) return errno;
  const int on = 1;
  setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
  if (info.ai_family == AF_INET6) setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &on, sizeof(on));
  const int error = bind(fd, info.ai_addr, info.ai_addrlen) != 0 || listen(fd, 1) != 0 ? errno : 0;
  close(fd);
  return error;
}

}  // namespace

absl::Status CheckPortIsFree(const ListenAddress& address) {
  if (address.port == 0) return absl::OkStatus();
  addrinfo hints{};
  hints.ai_family = AF_UNSPEC;
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = AI_PASSIVE | AI_NUMERICSERV;
  addrinfo* found = nullptr;
  const std::string port = StrCat(address.port);
  if (const int rc = getaddrinfo(address.host.c_str(), port.c_str(), &hints, &found); rc != 0) {
    return absl::InvalidArgumentError(StrCat("listen: cannot find the host '", address.host, "': ", gai_strerror(rc),
                                             "; give an address of this machine"));
  }
  // One name may stand for several addresses ("localhost" for ::1 and 127.0.0.1), of which this machine may lack some.
  bool bound = false;
  int error = 0;
  for (const addrinfo* info = found; info != nullptr && error != EADDRINUSE; info = info->ai_next) {
    const int failed = TryBind(*info);
    bound = bound || failed == 0;
    if (failed != 0) error = failed;
  }
  freeaddrinfo(found);
  if (error == EADDRINUSE) {
    return absl::AlreadyExistsError(
        StrCat("listen: ", address.ToString(), " is in use; stop the other server or choose another port (--listen)"));
  }
  if (bound) return absl::OkStatus();
  return absl::InvalidArgumentError(StrCat("listen: cannot bind ", address.ToString(), ": ", std::strerror(error),
                                           "; give an address of this machine and a port you may use"));
}

}  // namespace shoal
