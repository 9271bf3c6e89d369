// SPDX-License-Identifier: Apache-2.0
// What CRIU has tar do in the freeze (criu/filesystems.c, CRIU 4.2): the content of a container's tmpfs
// mounts, which are /dev and the empty ones that hide parts of /proc and /sys. Such a folder is archived and
// extracted here, without the three programs (tar, gzip and their loader, twice) that take 5 ms. Anything
// else is left to tar. The archives are ustar in gzip, without compression: tar reads them, and so does a
// CRIU without Godwit.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace godwit::small_tar {

// One thing in a folder; its name has no slash. "." is the folder itself.
struct Entry {
  std::string name;
  // Of ustar: '0' empty file, '2' symbolic link, '3' character device, '4' block device, '5' folder, '6'
  // FIFO.
  char type = '5';
  unsigned mode = 0;
  unsigned uid = 0, gid = 0;
  long long mtime = 0;
  std::string link;               // target of a symbolic link
  unsigned major = 0, minor = 0;  // of a device
  bool operator==(const Entry&) const = default;
};

// What the folder holds, itself first. False: there is more than this program archives (files with content,
// folders that are not empty, hard links, many or long names).
bool ReadFolder(int folder, std::vector<Entry>* entries);

std::string Pack(const std::vector<Entry>& entries);
// False: not an archive as Pack makes it.
bool Unpack(std::string_view archive, std::vector<Entry>* entries);

// Makes the entries in the folder, with owners, modes and times. False: one could not be made; why is in
// errno.
bool WriteFolder(int folder, const std::vector<Entry>& entries);

// Does what these arguments (those of tar, without its name) ask for, if it can: reads or writes the archive
// at descriptors 0 and 1 as CRIU sets them up. False: tar must do it, and nothing was touched. Otherwise
// *status is the program's end.
bool Run(const std::vector<std::string>& arguments, int* status);

}  // namespace godwit::small_tar
