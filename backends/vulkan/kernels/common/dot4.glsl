// Dot products of four signed bytes. With DOT: the instruction of
// VK_KHR_shader_integer_dot_product, which Debian 12's glslang has no function for.
#if defined(DOT)
#extension GL_EXT_spirv_intrinsics : require
spirv_instruction(extensions = ["SPV_KHR_integer_dot_product"], capabilities = [ 6019, 6018 ],
                  id = 4450) int packed_dot(int a, int b, spirv_literal int format);
int dot4(int a, int b, int sum) { return sum + packed_dot(a, b, 0); }
#else
int dot4(int a, int b, int sum) {
  return sum + ((a << 24) >> 24) * ((b << 24) >> 24) + ((a << 16) >> 24) * ((b << 16) >> 24) +
         ((a << 8) >> 24) * ((b << 8) >> 24) + (a >> 24) * (b >> 24);
}
#endif
