# The Vulkan backend: sets vulkan_sources, vulkan_objects, vulkan_libraries. Needs glslangValidator
# and the header vulkan/vulkan_core.h to build; libvulkan is opened at run time. Without them
# mica_backend_vulkan() answers NULL.
set(vulkan_dir ${PROJECT_SOURCE_DIR}/backends/vulkan)
set(vulkan_libraries "")
set(vulkan_objects "")
set(vulkan_sources backends/vulkan/absent.cpp)
set(MICA_HAVE_VULKAN OFF)
if(MICA_VULKAN STREQUAL "OFF")
  return()
endif()
find_program(MICA_GLSLANG glslangValidator)
find_path(MICA_VULKAN_INCLUDE vulkan/vulkan_core.h)
if(NOT MICA_GLSLANG OR NOT MICA_VULKAN_INCLUDE)
  set(missing "glslangValidator and vulkan/vulkan_core.h (Debian: glslang-tools libvulkan-dev)")
  if(NOT MICA_VULKAN STREQUAL "AUTO")
    message(FATAL_ERROR "MICA_VULKAN=${MICA_VULKAN} needs ${missing}")
  endif()
  message(STATUS "Vulkan backend: not built, it needs ${missing}")
  return()
endif()
set(MICA_HAVE_VULKAN ON)
set(vulkan_sources backends/vulkan/backend.cpp)

# What a variant line may ask for with needs=…: a shader that only compiles when the glslang found
# knows the extension. Without it the module comes from spirv/ (made there by spirv/make.sh), or is
# empty, and its Shader has no words.
set(vulkan_extension_coopmat GL_KHR_cooperative_matrix)
set(vulkan_extension_bfloat16 GL_EXT_bfloat16)
foreach(feature coopmat bfloat16)
  set(probe ${PROJECT_BINARY_DIR}/vulkan/probe_${feature}.comp)
  file(CONFIGURE OUTPUT ${probe} CONTENT
    "#version 460\n#extension ${vulkan_extension_${feature}} : require\nvoid main() {}\n" @ONLY)
  execute_process(COMMAND ${MICA_GLSLANG} --target-env vulkan1.2 --quiet -o ${probe}.spv ${probe}
                  RESULT_VARIABLE result OUTPUT_QUIET ERROR_QUIET)
  if(result EQUAL 0)
    list(APPEND vulkan_features ${feature})
  endif()
endforeach()

# One module: `name` from `source` with `defines`; its words as a C array in <name>.spv.h.
function(vulkan_module name source defines)
  set(header ${PROJECT_BINARY_DIR}/vulkan/${name}.spv.h)
  add_custom_command(OUTPUT ${header}
    COMMAND ${MICA_GLSLANG} --target-env vulkan1.2 -g0 --quiet -I${PROJECT_SOURCE_DIR}
            -I${vulkan_dir} -I${PROJECT_SOURCE_DIR}/core/include ${defines}
            --depfile ${header}.d --vn spv_${name} -o ${header} ${source}
    DEPENDS ${source} DEPFILE ${header}.d VERBATIM COMMENT "Shader ${name}")
endfunction()

# Of a module that lies in spirv/ and is as new as its sources: makes <name>.spv.h. Says so in
# `out`.
function(vulkan_ready_module name out)
  set(${out} FALSE PARENT_SCOPE)
  set(blob ${vulkan_dir}/spirv/${name}.spv)
  if(NOT EXISTS ${blob})
    return()
  endif()
  file(STRINGS ${vulkan_dir}/spirv/${name}.sources lines)
  foreach(line IN LISTS lines)
    if(NOT line MATCHES "^([0-9a-f]+)  (.+)$")
      message(FATAL_ERROR "${name}.sources: '${line}' is not a hash and a file")
    endif()
    set(wanted ${CMAKE_MATCH_1})
    set(file ${PROJECT_SOURCE_DIR}/${CMAKE_MATCH_2})
    set_property(DIRECTORY ${PROJECT_SOURCE_DIR} APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS ${file})
    set(hash "")
    if(EXISTS ${file})
      file(SHA256 ${file} hash)
    endif()
    if(NOT hash STREQUAL wanted)
      set(kind WARNING)
      if(MICA_WERROR)
        set(kind FATAL_ERROR)
      endif()
      message(${kind} "spirv/${name}.spv is not made of today's ${file}: run spirv/make.sh")
      return()
    endif()
  endforeach()
  file(READ ${blob} words HEX)
  string(REGEX REPLACE "(..)(..)(..)(..)" "0x\\4\\3\\2\\1," words "${words}")
  file(CONFIGURE OUTPUT ${PROJECT_BINARY_DIR}/vulkan/${name}.spv.h
       CONTENT "const uint32_t spv_${name}[] = {${words}};\n" @ONLY)
  set(${out} TRUE PARENT_SCOPE)
endfunction()

# Shaders: kernels/<kernel>.comp, also in a folder of its family, and common/*.comp, which several
# kernels use. One
# generated source a .comp holds all its modules.
file(GLOB vulkan_shaders CONFIGURE_DEPENDS ${vulkan_dir}/kernels/*.comp
     ${vulkan_dir}/kernels/*/*.comp ${vulkan_dir}/kernels/*/common/*.comp)
set_property(DIRECTORY APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS ${vulkan_shaders})
set(vulkan_modules "")
foreach(shader IN LISTS vulkan_shaders)
  get_filename_component(stem ${shader} NAME_WE)
  if(NOT shader MATCHES "/common/[^/]*$" AND NOT stem IN_LIST kernel_names)
    message(FATAL_ERROR "${shader}: there is no op or fusion of that name "
                        "(a shader that several kernels use belongs into kernels/common)")
  endif()
  file(STRINGS ${shader} variants REGEX "^//! variant ")
  if(NOT variants)
    set(variants "//! variant -")
  endif()
  set(includes "")
  set(shader_list "")
  set(headers "")
  foreach(line IN LISTS variants)
    string(REGEX REPLACE "^//! variant +" "" line "${line}")
    separate_arguments(words UNIX_COMMAND "${line}")
    list(POP_FRONT words name)
    set(module ${stem}_${name})
    if(name STREQUAL "-")
      set(module ${stem})
    endif()
    if(module IN_LIST vulkan_modules)
      message(FATAL_ERROR "${shader}: there are two modules ${module}")
    endif()
    list(APPEND vulkan_modules ${module})
    set(can TRUE)
    set(defines "")
    foreach(word IN LISTS words)
      if(word MATCHES "^needs=(.+)$")
        if(NOT DEFINED vulkan_extension_${CMAKE_MATCH_1})
          message(FATAL_ERROR "${shader}: ${word} is neither coopmat nor bfloat16")
        endif()
        if(NOT CMAKE_MATCH_1 IN_LIST vulkan_features)
          set(can FALSE)
        endif()
      elseif(word MATCHES "^-D")
        list(APPEND defines ${word})
      else()
        message(FATAL_ERROR
                "${shader}: '${word}' of variant ${name} is neither -D… nor needs=…")
      endif()
    endforeach()
    string(APPEND shader_list "extern const Shader shader_${module};\n"
           "const Shader shader_${module} = ")
    if(can)
      vulkan_module(${module} ${shader} "${defines}")
    else()
      vulkan_ready_module(${module} can)
    endif()
    if(can)
      list(APPEND headers ${PROJECT_BINARY_DIR}/vulkan/${module}.spv.h)
      string(APPEND includes "#include \"${module}.spv.h\"\n")
      string(APPEND shader_list
             "{\"${module}\", spv_${module}, sizeof spv_${module} / 4};\n")
    else()
      string(APPEND shader_list "{\"${module}\", nullptr, 0};\n")
    endif()
  endforeach()
  set(generated ${PROJECT_BINARY_DIR}/vulkan/shader_${stem}.cpp)
  file(CONFIGURE OUTPUT ${generated} CONTENT "// Generated: the modules of ${stem}.comp.
#include \"backends/vulkan/kernel.h\"
namespace {
${includes}}
namespace mica::vulkan {
${shader_list}}
" @ONLY)
  set_property(SOURCE ${generated} PROPERTY OBJECT_DEPENDS "${headers}")
  list(APPEND vulkan_generated ${generated})
endforeach()
list(LENGTH vulkan_modules n_modules)
if(n_modules GREATER 250)
  message(FATAL_ERROR "${n_modules} SPIR-V modules, 250 are allowed: use specialization constants")
endif()
message(STATUS "Vulkan backend: ${n_modules} modules; glslang also knows: ${vulkan_features}")

# Kernels: one host file an op or fusion.
file(GLOB vulkan_kernels CONFIGURE_DEPENDS ${vulkan_dir}/kernels/*.cpp
     ${vulkan_dir}/kernels/*/*.cpp)
list(FILTER vulkan_kernels EXCLUDE REGEX "/common/[^/]*$")
set(vulkan_def "")
foreach(f IN LISTS vulkan_kernels)
  get_filename_component(name ${f} NAME_WE)
  if(NOT name IN_LIST kernel_names)
    message(FATAL_ERROR "${f}: there is no op or fusion of that name")
  endif()
  string(APPEND vulkan_def "MICA_KERNEL(${name})\n")
endforeach()
file(CONFIGURE OUTPUT generated/vulkan_kernels.def CONTENT "${vulkan_def}" @ONLY)

file(GLOB vulkan_host CONFIGURE_DEPENDS ${vulkan_dir}/*.cpp ${vulkan_dir}/kernels/common/*.cpp
     ${vulkan_dir}/kernels/*/common/*.cpp)
list(REMOVE_ITEM vulkan_host ${vulkan_dir}/backend.cpp ${vulkan_dir}/absent.cpp)
add_library(mica_vulkan OBJECT ${vulkan_host} ${vulkan_kernels} ${vulkan_generated})
target_compile_options(mica_vulkan PRIVATE ${warnings} ${library_options})
target_include_directories(mica_vulkan PRIVATE . core/include ${PROJECT_BINARY_DIR}/include
                           ${PROJECT_BINARY_DIR}/generated ${PROJECT_BINARY_DIR}/vulkan)
if(NOT MICA_VULKAN_INCLUDE STREQUAL "/usr/include")
  target_include_directories(mica_vulkan SYSTEM PRIVATE ${MICA_VULKAN_INCLUDE})
  set_source_files_properties(backends/vulkan/backend.cpp PROPERTIES
                              INCLUDE_DIRECTORIES ${MICA_VULKAN_INCLUDE})
endif()
set(vulkan_objects $<TARGET_OBJECTS:mica_vulkan>)
