# take_constructors(OBJECT SYMBOL OUT): keeps what an object would do before main from being done
# there. Its arrays of constructors become data named SYMBOL_0, SYMBOL_1 … in the order in which they
# would have run; OUT gets the number of functions of each. driver.cpp calls them. As a script,
# cmake -DOBJECT=… -DSYMBOL=… -DOBJCOPY=… -DREADELF=… -DBYTES=… -P constructors.cmake: for an object
# of nvcc, which has one constructor and no other.
function(take_constructors object symbol out)
  execute_process(COMMAND ${CMAKE_COMMAND} -E env LC_ALL=C ${READELF} -SW ${object}
                  OUTPUT_VARIABLE text RESULT_VARIABLE failed)
  if(failed)
    message(FATAL_ERROR "${READELF} cannot read ${object}")
  endif()
  if(text MATCHES "\\.(ctors|preinit_array)")
    message(FATAL_ERROR "${object} has constructors in .${CMAKE_MATCH_1}, which are not looked for")
  endif()
  string(REGEX MATCHALL "\\.init_array[.0-9]* +INIT_ARRAY +[0-9a-f]+ +[0-9a-f]+ +[0-9a-f]+"
         rows "${text}")
  # By priority, which is a part of the name; those without one come last.
  list(SORT rows)
  set(last ${rows})
  list(FILTER last INCLUDE REGEX "^\\.init_array ")
  list(FILTER rows EXCLUDE REGEX "^\\.init_array ")
  set(i 0)
  set(changes "")
  set(counts "")
  foreach(row IN LISTS rows last)
    string(REGEX MATCH "^([^ ]+) .* ([0-9a-f]+)$" _ "${row}")
    set(section ${CMAKE_MATCH_1})
    math(EXPR n "0x${CMAKE_MATCH_2} / ${BYTES}")
    set(moved .data.rel.ro.${symbol}_${i})
    list(APPEND changes --rename-section ${section}=${moved},alloc,load,data
         --add-symbol ${symbol}_${i}=${moved}:0,global,object)
    list(APPEND counts ${n})
    math(EXPR i "${i} + 1")
  endforeach()
  if(changes)
    execute_process(COMMAND ${OBJCOPY} ${changes} ${object} RESULT_VARIABLE failed)
    if(failed)
      message(FATAL_ERROR "${OBJCOPY} cannot take the constructors out of ${object}")
    endif()
  endif()
  set(${out} "${counts}" PARENT_SCOPE)
endfunction()

if(CMAKE_SCRIPT_MODE_FILE STREQUAL CMAKE_CURRENT_LIST_FILE)
  take_constructors(${OBJECT} ${SYMBOL} counts)
  if(NOT counts STREQUAL "1")
    file(REMOVE ${OBJECT})
    message(FATAL_ERROR "${OBJECT} has constructors beside the one that nvcc makes: (${counts})")
  endif()
endif()
