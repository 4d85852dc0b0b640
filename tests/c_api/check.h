/* Checks for the C tests: each failing one is told, and the program ends with 1. */
#ifndef TESTS_C_API_CHECK_H_
#define TESTS_C_API_CHECK_H_
#include <stdio.h>

static int n_checks = 0;
static int n_failed = 0;

static int check(int ok, const char* file, int line, const char* text) {
  ++n_checks;
  if (ok) return 1;
  ++n_failed;
  fprintf(stderr, "%s:%d: failed: %s\n", file, line, text);
  return 0;
}
#define CHECK(condition) check((condition) != 0, __FILE__, __LINE__, #condition)

static int check_result(void) {
  printf("%d checks, %d failed\n", n_checks, n_failed);
  return n_failed != 0 || n_checks == 0;
}
#endif
