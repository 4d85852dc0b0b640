// The sum over a workgroup of up to 1024 invocations, and the largest, for each of them. Include
// after base.glsl.
shared float partial[256];  // subgroups of 4

float sum_all(float x) {
  const float s = subgroupAdd(x);
  if (gl_NumSubgroups == 1) return s;
  if (subgroupElect()) partial[gl_SubgroupID] = s;
  barrier();
  float total = 0.0;
  for (uint i = 0; i < gl_NumSubgroups; ++i) total += partial[i];
  barrier();
  return total;
}

uint most_all(uint x) {
  uint most = subgroupMax(x);
  if (gl_NumSubgroups == 1) return most;
  if (subgroupElect()) partial[gl_SubgroupID] = uintBitsToFloat(most);
  barrier();
  for (uint i = 0; i < gl_NumSubgroups; ++i) most = max(most, floatBitsToUint(partial[i]));
  barrier();
  return most;
}
