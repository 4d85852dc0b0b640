# The CUDA backend: sets cuda_sources, cuda_objects, and cuda_include when it is built.
# nvcc is called by rules of our own: a project that links mica needs neither CUDA nor its language
# in CMake. The static CUDA runtime becomes a member of the archive, so that a program that uses the
# backend links with -lm -lpthread too; a program that does not name it gets nothing of it.
set(MICA_CUDA_ARCHS "80;90a;80-virtual" CACHE STRING
    "CUDA architectures to build for: 90a is code for sm_90a, 80-virtual is PTX for compute_80")
set(cuda_sources ${PROJECT_SOURCE_DIR}/backends/cuda/absent.cpp)
set(cuda_objects "")
set(cuda_include "")

if(NOT MICA_CUDA STREQUAL "OFF")
  if(CMAKE_CUDA_COMPILER)
    set(MICA_NVCC ${CMAKE_CUDA_COMPILER} CACHE FILEPATH "The CUDA compiler")
  endif()
  find_program(MICA_NVCC nvcc HINTS $ENV{CUDACXX} $ENV{CUDA_HOME}/bin $ENV{CUDA_PATH}/bin
               PATHS /usr/local/cuda/bin /opt/cuda/bin DOC "The CUDA compiler")
  set(cuda_missing "")
  if(NOT MICA_NVCC)
    set(cuda_missing "nvcc was not found")
  else()
    execute_process(COMMAND ${MICA_NVCC} --version OUTPUT_VARIABLE text ERROR_QUIET)
    string(REGEX MATCH "release ([0-9.]+)" _ "${text}")
    set(cuda_version "${CMAKE_MATCH_1}")
    if(cuda_version STREQUAL "" OR cuda_version VERSION_LESS 12.8)
      set(cuda_missing "${MICA_NVCC} is not of CUDA 12.8 or later")
    endif()
    # Where nvcc looks itself: its own profile names the folders.
    execute_process(COMMAND ${MICA_NVCC} --dryrun -x cu -c /dev/null -o /dev/null
                    OUTPUT_VARIABLE text ERROR_VARIABLE text)
    string(REGEX MATCH "INCLUDES=\"?-I\"?([^\" \n]+)" _ "${text}")
    get_filename_component(root ${MICA_NVCC} REALPATH)
    get_filename_component(root ${root} DIRECTORY)
    get_filename_component(root ${root} DIRECTORY)
    find_path(MICA_CUDART_INCLUDE cuda_runtime_api.h HINTS ${CMAKE_MATCH_1} ${root}/include
              DOC "Folder of cuda_runtime_api.h")
    find_library(MICA_CUDART_STATIC libcudart_static.a HINTS ${root}/lib64 ${root}/lib
                 ${root}/targets/${CMAKE_SYSTEM_PROCESSOR}-linux/lib ${root}/targets/sbsa-linux/lib
                 DOC "The static CUDA runtime")
    if(NOT cuda_missing AND NOT (MICA_CUDART_INCLUDE AND MICA_CUDART_STATIC))
      set(cuda_missing "cuda_runtime_api.h or libcudart_static.a was not found beside ${MICA_NVCC}")
    endif()
  endif()
  if(cuda_missing AND MICA_CUDA STREQUAL "ON")
    message(FATAL_ERROR "MICA_CUDA is ON, but ${cuda_missing}")
  endif()
  if(cuda_missing)
    message(STATUS "The CUDA backend is not built: ${cuda_missing}")
  endif()
endif()

if(NOT MICA_CUDA STREQUAL "OFF" AND NOT cuda_missing)
  message(STATUS "The CUDA backend is built with ${MICA_NVCC} ${cuda_version} for ${MICA_CUDA_ARCHS}")
  set(cuda_include ${MICA_CUDART_INCLUDE})
  file(GLOB cuda_sources CONFIGURE_DEPENDS ${PROJECT_SOURCE_DIR}/backends/cuda/*.cpp)
  file(GLOB cuda_device_files CONFIGURE_DEPENDS RELATIVE ${PROJECT_SOURCE_DIR}
       backends/cuda/*.cu backends/cuda/kernels/*.cu backends/cuda/kernels/*/*.cu
       backends/cuda/quant/*.cu)
  list(REMOVE_ITEM cuda_sources ${PROJECT_SOURCE_DIR}/backends/cuda/absent.cpp)
  # A compiler warns of nothing in a system's folder; one that is already searched stays where it is.
  if(NOT cuda_include STREQUAL "/usr/include")
    set_source_files_properties(${cuda_sources} PROPERTIES COMPILE_OPTIONS
                                "-isystem;${cuda_include}")
  endif()

  set(nvcc_flags -std=c++20 -Wno-deprecated-gpu-targets --compress-mode=size
      --expt-relaxed-constexpr -diag-suppress=177
      -I${PROJECT_SOURCE_DIR} -I${PROJECT_SOURCE_DIR}/core/include -I${PROJECT_BINARY_DIR}/include)
  foreach(arch IN LISTS MICA_CUDA_ARCHS)
    if(arch MATCHES "^([0-9]+[af]?)-virtual$")
      list(APPEND nvcc_flags -gencode arch=compute_${CMAKE_MATCH_1},code=compute_${CMAKE_MATCH_1})
    elseif(arch MATCHES "^([0-9]+[af]?)$")
      list(APPEND nvcc_flags -gencode arch=compute_${arch},code=sm_${arch})
    else()
      message(FATAL_ERROR "MICA_CUDA_ARCHS: ${arch} is not like 90a or 80-virtual")
    endif()
  endforeach()
  # Not -Wpedantic and -Wconversion: what nvcc generates does not pass them.
  set(host_flags -fPIC -Wall -Wextra -Wshadow ${library_options})
  string(REPLACE ";" "," host_flags "${host_flags}")
  list(APPEND nvcc_flags -Xcompiler=${host_flags} $<$<BOOL:${MICA_WERROR}>:-Werror=all-warnings>
       $<IF:$<CONFIG:Debug>,-O1$<SEMICOLON>-g,-O3$<SEMICOLON>-DNDEBUG>
       $<$<CONFIG:RelWithDebInfo>:-lineinfo>)

  # Nothing runs before main: driver.cpp calls the constructors when a device is wanted.
  foreach(tool OBJCOPY READELF)
    if(NOT CMAKE_${tool})
      message(FATAL_ERROR "The CUDA backend needs ${tool}, of the binutils, to be built")
    endif()
    set(${tool} ${CMAKE_${tool}})
  endforeach()
  set(BYTES ${CMAKE_SIZEOF_VOID_P})
  include(${PROJECT_SOURCE_DIR}/backends/cuda/constructors.cmake)

  set(cuda_kernel_def "")
  set(cuda_module_def "")
  foreach(file IN LISTS cuda_device_files)
    get_filename_component(name ${file} NAME_WE)
    if(file MATCHES "/kernels/")
      if(NOT name IN_LIST kernel_names)
        message(FATAL_ERROR "${file}: there is no op or fusion of that name")
      endif()
      string(APPEND cuda_kernel_def "MICA_KERNEL(${name})\n")
    endif()
    string(REPLACE "/" "_" object ${file})
    string(REGEX REPLACE "^backends_cuda_(.*)\\.cu$" "mica_cuda_module_\\1" symbol ${object})
    set(object ${PROJECT_BINARY_DIR}/cuda/${object}.o)
    string(APPEND cuda_module_def "MICA_CUDA_CONSTRUCTORS(${symbol}_0, 1)\n")
    add_custom_command(OUTPUT ${object}
      COMMAND ${CMAKE_CXX_COMPILER_LAUNCHER} ${MICA_NVCC} ${nvcc_flags} -MD -MF ${object}.d
              -c ${PROJECT_SOURCE_DIR}/${file} -o ${object}
      COMMAND ${CMAKE_COMMAND} -DOBJECT=${object} -DSYMBOL=${symbol} -DOBJCOPY=${OBJCOPY}
              -DREADELF=${READELF} -DBYTES=${BYTES}
              -P ${PROJECT_SOURCE_DIR}/backends/cuda/constructors.cmake
      DEPENDS ${PROJECT_SOURCE_DIR}/${file}
              ${PROJECT_SOURCE_DIR}/backends/cuda/constructors.cmake DEPFILE ${object}.d
      COMMENT "Building CUDA object ${file}" COMMAND_EXPAND_LISTS VERBATIM)
    list(APPEND cuda_objects ${object})
  endforeach()
  file(CONFIGURE OUTPUT generated/cuda_kernels.def CONTENT "${cuda_kernel_def}" @ONLY)
  file(CONFIGURE OUTPUT generated/cuda_modules.def CONTENT "${cuda_module_def}" @ONLY)
  file(MAKE_DIRECTORY ${PROJECT_BINARY_DIR}/cuda/runtime)
  # Both libraries wait for the objects instead of building them twice.
  add_custom_target(mica_cuda_objects DEPENDS ${cuda_objects})

  execute_process(COMMAND ${CMAKE_AR} x ${MICA_CUDART_STATIC} RESULT_VARIABLE failed
                  WORKING_DIRECTORY ${PROJECT_BINARY_DIR}/cuda/runtime)
  file(GLOB cuda_runtime_objects ${PROJECT_BINARY_DIR}/cuda/runtime/*.o)
  if(failed OR NOT cuda_runtime_objects)
    message(FATAL_ERROR "${MICA_CUDART_STATIC} has no objects")
  endif()
  set(cuda_runtime_def "")
  set(i 0)
  foreach(object IN LISTS cuda_runtime_objects)
    take_constructors(${object} mica_cuda_runtime_${i} counts)
    set(k 0)
    foreach(n IN LISTS counts)
      string(APPEND cuda_runtime_def "MICA_CUDA_CONSTRUCTORS(mica_cuda_runtime_${i}_${k}, ${n})\n")
      math(EXPR k "${k} + 1")
    endforeach()
    math(EXPR i "${i} + 1")
  endforeach()
  file(CONFIGURE OUTPUT generated/cuda_runtime.def CONTENT "${cuda_runtime_def}" @ONLY)
  list(APPEND cuda_objects ${cuda_runtime_objects})
  set_source_files_properties(${cuda_objects} PROPERTIES EXTERNAL_OBJECT TRUE GENERATED TRUE)
endif()
