// Assertions that are active in every build and print the place of the failure.
#pragma once

#include <cstdio>
#include <cstdlib>
#include <exception>
#include <string>

#define CHECK(condition)                                                           \
  do {                                                                             \
    if (!(condition)) {                                                            \
      std::fprintf(stderr, "%s:%d: failed: %s\n", __FILE__, __LINE__, #condition); \
      std::exit(1);                                                                \
    }                                                                              \
  } while (false)

// `expression` throws `Error` with `text` in its message.
#define CHECK_THROWS(expression, Error, text)                                                     \
  do {                                                                                            \
    std::string lck_message = "nothing was thrown";                                               \
    try {                                                                                         \
      (void)(expression);                                                                         \
    } catch (const Error& error) {                                                                \
      lck_message = error.what();                                                                 \
    }                                                                                             \
    if (lck_message.find(text) == std::string::npos) {                                            \
      std::fprintf(stderr, "%s:%d: expected \"%s\" from %s, got: %s\n", __FILE__, __LINE__, text, \
                   #expression, lck_message.c_str());                                             \
      std::exit(1);                                                                               \
    }                                                                                             \
  } while (false)
