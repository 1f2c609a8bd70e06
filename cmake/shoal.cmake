# The functions every folder uses: one library per folder, one test program per folder, and the project's flags.

add_library(shoal_flags INTERFACE)
# nvcc has flags of its own (kernels/CMakeLists.txt).
target_compile_options(shoal_flags INTERFACE
  "$<$<NOT:$<COMPILE_LANGUAGE:CUDA>>:-Wall;-Wextra;-Werror;-Wno-psabi;-fno-omit-frame-pointer>")
target_include_directories(shoal_flags INTERFACE ${CMAKE_SOURCE_DIR} ${CMAKE_BINARY_DIR}/generated)
# a*b+c is contracted only where the code says fma: the same bits from every compiler, build type and kernel path.
target_compile_options(shoal_flags INTERFACE $<$<NOT:$<COMPILE_LANGUAGE:CUDA>>:-ffp-contract=off>)
if(SHOAL_SANITIZE)
  target_compile_options(shoal_flags INTERFACE -fsanitize=${SHOAL_SANITIZE} -fno-sanitize-recover=all -g1)
  target_link_options(shoal_flags INTERFACE -fsanitize=${SHOAL_SANITIZE})
endif()
if(SHOAL_WITH_FUZZ)
  # clang warns about other things than gcc, whose warnings bind.
  target_compile_options(shoal_flags INTERFACE -fsanitize=fuzzer-no-link -Wno-error)
endif()

# shoal_library(NAME SRCS a.cc ... DEPS base absl::strings ...): the library `shoal_NAME`.
# A dep that is one of our folders is written by its plain name.
function(shoal_library name)
  cmake_parse_arguments(ARG "" "" "SRCS;DEPS" ${ARGN})
  add_library(shoal_${name} STATIC ${ARG_SRCS})
  set(deps "")
  foreach(dep ${ARG_DEPS})
    if(IS_DIRECTORY ${CMAKE_SOURCE_DIR}/${dep})
      list(APPEND deps shoal_${dep})
    else()
      list(APPEND deps ${dep})
    endif()
  endforeach()
  target_link_libraries(shoal_${name} PUBLIC shoal_flags ${deps})
endfunction()

# shoal_binary(NAME SRCS ... DEPS ...): a program in build/bin.
function(shoal_binary name)
  cmake_parse_arguments(ARG "" "" "SRCS;DEPS" ${ARGN})
  add_executable(${name} ${ARG_SRCS})
  set(deps "")
  foreach(dep ${ARG_DEPS})
    if(IS_DIRECTORY ${CMAKE_SOURCE_DIR}/${dep})
      list(APPEND deps shoal_${dep})
    else()
      list(APPEND deps ${dep})
    endif()
  endforeach()
  target_link_libraries(${name} PRIVATE shoal_flags ${deps})
endfunction()

# shoal_tests(FOLDER DEPS ... [NAME n] [SRCS ...] [SHARDS n]): tests/FOLDER/*.cc in one program `FOLDER_tests`, one CTest
# entry, or one `FOLDER_tests_I` per shard, which begin before all others. Files named *_mpi.cc are programs of their own, for
# shoal_mpi_test.
function(shoal_tests folder)
  cmake_parse_arguments(ARG "" "NAME;SHARDS" "DEPS;SRCS" ${ARGN})
  if(NOT ARG_NAME)
    set(ARG_NAME ${folder}_tests)
  endif()
  if(NOT ARG_SRCS)
    file(GLOB ARG_SRCS CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/tests/${folder}/*.cc)
    list(FILTER ARG_SRCS EXCLUDE REGEX "_mpi\\.cc$")
  endif()
  if(NOT ARG_SRCS)
    return()
  endif()
  shoal_binary(${ARG_NAME} SRCS ${ARG_SRCS} DEPS ${ARG_DEPS} GTest::gmock GTest::gtest_main)
  if(SHOAL_SANITIZE)
    # Optimising the checks in test code takes most of a sanitizer build's time and makes no test faster.
    target_compile_options(${ARG_NAME} PRIVATE -O0)
  endif()
  target_compile_definitions(${ARG_NAME} PRIVATE SHOAL_SOURCE_DIR="${CMAKE_SOURCE_DIR}" SHOAL_BINARY_DIR="${CMAKE_BINARY_DIR}")
  # tests/run.sh counts tests, not programs, from these reports.
  set(reports xml:${CMAKE_BINARY_DIR}/test-results/unit)
  if(NOT ARG_SHARDS)
    add_test(NAME ${ARG_NAME} COMMAND ${ARG_NAME})
    set_tests_properties(${ARG_NAME} PROPERTIES TIMEOUT 900 ENVIRONMENT "GTEST_OUTPUT=${reports}/${ARG_NAME}.xml")
    return()
  endif()
  math(EXPR last "${ARG_SHARDS} - 1")
  foreach(shard RANGE ${last})
    set(entry ${ARG_NAME}_${shard})
    add_test(NAME ${entry} COMMAND ${ARG_NAME})
    set_tests_properties(${entry} PROPERTIES TIMEOUT 900 COST 1000 ENVIRONMENT
      "GTEST_OUTPUT=${reports}/${entry}.xml;GTEST_TOTAL_SHARDS=${ARG_SHARDS};GTEST_SHARD_INDEX=${shard}")
  endforeach()
endfunction()

# shoal_mpi_test(SOURCE DEPS ... RANKS 2 3 ...): tests/SOURCE, which brings its own main, under mpirun with each number of ranks.
function(shoal_mpi_test source)
  cmake_parse_arguments(ARG "" "" "DEPS;RANKS;SRCS" ${ARGN})
  get_filename_component(name ${source} NAME_WE)
  list(TRANSFORM ARG_SRCS PREPEND ${CMAKE_SOURCE_DIR}/tests/)
  shoal_binary(${name} SRCS ${CMAKE_SOURCE_DIR}/tests/${source} ${ARG_SRCS} DEPS ${ARG_DEPS} GTest::gmock)
  foreach(ranks ${ARG_RANKS})
    add_test(NAME ${name}_${ranks} COMMAND ${CMAKE_SOURCE_DIR}/tests/support/mpirun_test.sh ${ranks} $<TARGET_FILE:${name}>)
    set_tests_properties(${name}_${ranks} PROPERTIES TIMEOUT 300 PROCESSORS 2)
  endforeach()
endfunction()
