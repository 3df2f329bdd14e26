/*
 * What Python.h has to know about the target of a cross build: the sizes of its types. The headers of the machine that
 * builds describe that machine; here the compiler says.
 */
#ifndef Py_CONFIG_H
#define Py_CONFIG_H

#define SIZEOF_SHORT __SIZEOF_SHORT__
#define SIZEOF_INT __SIZEOF_INT__
#define SIZEOF_LONG __SIZEOF_LONG__
#define SIZEOF_LONG_LONG __SIZEOF_LONG_LONG__
#define SIZEOF_SIZE_T __SIZEOF_SIZE_T__
#define SIZEOF_VOID_P __SIZEOF_POINTER__
#define SIZEOF_UINTPTR_T __SIZEOF_POINTER__
#define SIZEOF_WCHAR_T __SIZEOF_WCHAR_T__
#define ALIGNOF_SIZE_T __SIZEOF_SIZE_T__
#define ALIGNOF_LONG __SIZEOF_LONG__

#define HAVE_STDDEF_H 1
#define HAVE_SYS_TYPES_H 1
#define HAVE_SYS_STAT_H 1
#define HAVE_WCHAR_H 1
#define WITH_THREAD 1
#define HAVE_PYTHON_DLL 1

#ifdef _WIN32
#define MS_WINDOWS
#define MS_WIN32
#ifdef _WIN64
#define MS_WIN64
#endif
#define NT_THREADS
#define HAVE_DECLSPEC_DLL
#define Py_ENABLE_SHARED
#else
#define HAVE_PTHREAD_H 1
#define HAVE_UNISTD_H 1
#define _POSIX_THREADS 1
#endif

/* What Microsoft's compiler knows by itself, and CPython's headers ask for register 18 alone: it is the thread's. */
#if defined(_WIN32) && defined(__aarch64__) && defined(Py_GIL_DISABLED)
static inline unsigned long long __getReg(int number) {
    unsigned long long value;
    (void)number;
    __asm__("mov %0, x18" : "=r"(value));
    return value;
}
#endif

#endif
