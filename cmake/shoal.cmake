# The functions every folder uses: one library per folder, one test program per folder, and the project's flags.

add_library(shoal_flags INTERFACE)
target_compile_options(shoal_flags INTERFACE -Wall -Wextra -Werror -Wno-psabi -fno-omit-frame-pointer)
target_include_directories(shoal_flags INTERFACE ${CMAKE_SOURCE_DIR} ${CMAKE_BINARY_DIR}/generated)
# a*b+c is contracted only where the code says fma: the same bits from every compiler, build type and kernel path.
target_compile_options(shoal_flags INTERFACE -ffp-contract=off)
if(SHOAL_SANITIZE)
  target_compile_options(shoal_flags INTERFACE -fsanitize=${SHOAL_SANITIZE} -fno-sanitize-recover=all -g)
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

# shoal_tests(FOLDER DEPS ... [NAME n] [SRCS ...]): tests/FOLDER/*.cc in one program `FOLDER_tests`, one CTest entry. Files
# named *_mpi.cc are programs of their own, for shoal_mpi_test.
function(shoal_tests folder)
  cmake_parse_arguments(ARG "" "NAME" "DEPS;SRCS" ${ARGN})
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
  target_compile_definitions(${ARG_NAME} PRIVATE SHOAL_SOURCE_DIR="${CMAKE_SOURCE_DIR}" SHOAL_BINARY_DIR="${CMAKE_BINARY_DIR}")
  add_test(NAME ${ARG_NAME} COMMAND ${ARG_NAME})
  # tests/run.sh counts tests, not programs, from these reports.
  set_tests_properties(${ARG_NAME} PROPERTIES TIMEOUT 900
    ENVIRONMENT "GTEST_OUTPUT=xml:${CMAKE_BINARY_DIR}/test-results/unit/${ARG_NAME}.xml")
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
