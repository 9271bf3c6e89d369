// SPDX-License-Identifier: Apache-2.0
// Stands in for the page engine in the node tests: takes the memory of frozen tasks aside, and gives it back
// to restored ones by userfaultfd.
#pragma once

#include <sys/types.h>

#include <atomic>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "agent/memory/range.h"
#include "base/file.h"

namespace godwit::node_test {

// What the engine would carry of one task.
struct TaskMemory {
  pid_t pid = 0;            // here
  pid_t container_pid = 0;  // in the container
  memory::Ranges owned;     // private anonymous mappings
  memory::Ranges populated;
  UniqueFd store;  // a memfd with the populated pages at their addresses
};

// Of all tasks in a frozen cgroup, read anew in each call.
std::vector<TaskMemory> TakeMemory(const std::string& cgroup);

// Writes the file of hidden pages.
void WriteHidden(const std::string& path, const std::vector<TaskMemory>& tasks);

// A lazy-pages daemon that serves faults, and nothing else, from its making to its end.
class LazyPages {
 public:
  LazyPages(const std::string& socket, const std::vector<TaskMemory>* memory);
  ~LazyPages();

  int faults() const { return faults_; }
  size_t tasks() const { return tasks_; }  // whose userfaultfd has come

 private:
  struct Source {
    UniqueFd uffd;
    int store;
  };
  void Serve();
  void Take();
  void Answer(const Source& source);

  const std::vector<TaskMemory>* const memory_;
  UniqueFd listener_, connection_, stop_;
  std::vector<std::unique_ptr<Source>> sources_;  // of the thread
  std::atomic<int> faults_ = 0;
  std::atomic<size_t> tasks_ = 0;
  std::thread thread_;
};

}  // namespace godwit::node_test
