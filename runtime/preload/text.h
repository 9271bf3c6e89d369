// SPDX-License-Identifier: Apache-2.0
// Reading the small files that tell this library what to do.
#pragma once

#include <stddef.h>
#include <stdint.h>

namespace godwit::preload {

// A number up to `end`, with no more than 16 digits. False where there is none.
bool Number(const char*& at, const char* end, unsigned base, uint64_t* out);
bool Skip(const char*& at, const char* end, char c);
size_t CountLines(const char* text, size_t size);

// Says why, and is false.
bool Refuse(const char* what, const char* detail, int error);

// A file's bytes, mapped. `name` is what it is called where it cannot be had: "hidden pages".
struct Text {
  const char* bytes = nullptr;  // null: the file is empty
  size_t size = 0;
};
bool MapText(const char* path, const char* name, Text* text);
void UnmapText(const Text& text);

}  // namespace godwit::preload
