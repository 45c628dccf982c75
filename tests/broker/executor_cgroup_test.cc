#include "broker/dispatch/executor_cgroup.h"

#include <gtest/gtest.h>

namespace sluice::broker {
namespace {

constexpr char kVersion1Mounts[] =
    "22 1 8:1 / / rw,relatime - ext4 /dev/sda1 rw\n"
    "30 22 0:26 / /sys/fs/cgroup/memory rw,relatime shared:9 - cgroup cgroup rw,memory\n"
    "31 22 0:27 / /sys/fs/cgroup/cpu,pids rw - cgroup cgroup rw,cpu,pids\n"
    "32 22 0:28 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n";
constexpr char kVersion1Groups[] =
    "9:memory:/a/b\n"
    "8:cpu,pids:/\n"
    "1:name=systemd:/x\n"
    "0::/x\n";
constexpr char kVersion2Mounts[] =
    "30 22 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n";

TEST(FindCgroup, Version1HasAHierarchyForEachController) {
  EXPECT_EQ(*find_cgroup(kVersion1Mounts, kVersion1Groups, "memory"),
            (CgroupPlace{"/sys/fs/cgroup/memory/a/b", false}));
  EXPECT_EQ(*find_cgroup(kVersion1Mounts, kVersion1Groups, "pids"),
            (CgroupPlace{"/sys/fs/cgroup/cpu,pids", false}));
}

TEST(FindCgroup, Version2HasOneForAll) {
  EXPECT_EQ(*find_cgroup(kVersion2Mounts, "0::/system.slice/sluiced.service\n", "memory"),
            (CgroupPlace{"/sys/fs/cgroup/system.slice/sluiced.service", true}));
  EXPECT_EQ(*find_cgroup(kVersion2Mounts, "0::/\n", "pids"), (CgroupPlace{"/sys/fs/cgroup", true}));
}

TEST(FindCgroup, WhatNoVersion1HierarchyHasIsLookedForInVersion2) {
  EXPECT_EQ(*find_cgroup(kVersion1Mounts, kVersion1Groups, "hugetlb"),
            (CgroupPlace{"/sys/fs/cgroup/unified/x", true}));
}

TEST(FindCgroup, AContainersMountStartsAtItsOwnGroup) {
  constexpr char kMounts[] =
      "30 22 0:26 /docker/1f /sys/fs/cgroup/memory ro - cgroup cgroup rw,memory\n";
  EXPECT_EQ(*find_cgroup(kMounts, "9:memory:/docker/1f\n", "memory"),
            (CgroupPlace{"/sys/fs/cgroup/memory", false}));
  EXPECT_EQ(*find_cgroup(kMounts, "9:memory:/docker/1f/in\n", "memory"),
            (CgroupPlace{"/sys/fs/cgroup/memory/in", false}));
  EXPECT_FALSE(find_cgroup(kMounts, "9:memory:/docker/2a\n", "memory"));
  EXPECT_FALSE(find_cgroup(kMounts, "9:memory:/docker/1fab\n", "memory"));
  EXPECT_FALSE(find_cgroup(kVersion2Mounts, "0::/../sibling\n", "memory"));
}

TEST(FindCgroup, NothingMountedIsAnError) {
  EXPECT_EQ(find_cgroup("", kVersion1Groups, "memory").error().code, Code::kNotFound);
  EXPECT_EQ(find_cgroup(kVersion1Mounts, "", "memory").error().code, Code::kNotFound);
  EXPECT_EQ(find_cgroup("a b c\n1 2 3 4 5 6 -\n", "no colons\n:\n", "memory").error().code,
            Code::kNotFound);
}

}  // namespace
}  // namespace sluice::broker
