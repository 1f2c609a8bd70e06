// Names that stand for several addresses.
#include "server/port.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include "gtest/gtest.h"

namespace shoal {
namespace {

// A socket that listens on 127.0.0.1, or only bound and closed again to find a free port.
int Listen(int* port) {
  const int fd = socket(AF_INET, SOCK_STREAM, 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t length = sizeof(address);
  EXPECT_EQ(bind(fd, reinterpret_cast<sockaddr*>(&address), length), 0);
  EXPECT_EQ(listen(fd, 1), 0);
  EXPECT_EQ(getsockname(fd, reinterpret_cast<sockaddr*>(&address), &length), 0);
  *port = ntohs(address.sin_port);
  return fd;
}

TEST(PortTest, LocalhostIsFreeIfOneOfItsAddressesCanBeBound) {
  int port = 0;
  close(Listen(&port));
  EXPECT_TRUE(CheckPortIsFree({"localhost", port, true}).ok());
}

TEST(PortTest, APortInUseOnOneAddressOfTheNameIsRefused) {
  int port = 0;
  const int fd = Listen(&port);
  EXPECT_EQ(CheckPortIsFree({"localhost", port, true}).code(), absl::StatusCode::kAlreadyExists);
  close(fd);
}

}  // namespace
}  // namespace shoal
