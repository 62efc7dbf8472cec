/* Tests whose arithmetic takes minutes under a sanitizer are skipped there. What is left of
 * their program must run the same code. */
#ifndef TESTS_COMMON_SANITIZERS_H
#define TESTS_COMMON_SANITIZERS_H

#ifdef __SANITIZE_THREAD__
#define NOT_UNDER_TSAN() skip()
#else
#define NOT_UNDER_TSAN() (void)0
#endif
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define NOT_UNDER_SANITIZERS() skip()
#else
#define NOT_UNDER_SANITIZERS() (void)0
#endif

#endif
