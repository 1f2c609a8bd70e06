# The host part of the CUDA back end, which its emulation for tests shares.
set(SHOAL_CUDA_HOST_SOURCES
  ${CMAKE_SOURCE_DIR}/kernels/cuda/arena.cc
  ${CMAKE_SOURCE_DIR}/kernels/cuda/cuda_device.cc
  ${CMAKE_SOURCE_DIR}/kernels/cuda/cuda_ops.cc
  ${CMAKE_SOURCE_DIR}/kernels/cuda/cuda_peer_link.cc)
